//! A mail server that keeps what it is given in memory: Python's aiosmtpd, which `deploy/local/stack` fetches.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde::{Deserialize, Serialize};

use super::until;

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/e2e/harness/smtp_server.py");

/// Who gets the mails that only show that the server has come to rest.
const NOBODY_ELSE: &str = "rest@example.com";

/// A mail, as the server printed it.
#[derive(Clone, Deserialize, Serialize)]
pub struct Mail {
    pub to: Vec<String>,
    pub subject: String,
    pub body: String,
    /// The same in a mail that is sent again.
    #[serde(default)]
    pub message_id: String,
}

/// The running server; it ends with this.
pub struct Mailbox {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Mailbox {
    /// Starts it and waits until it answers.
    pub async fn start(stack: &Path, port: &str) -> Result<Mailbox> {
        let mut child = Command::new(stack)
            .args(["aiosmtpd", SERVER, port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", stack.display()))?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let written = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                written.lock().expect("nobody panics with it").push(line);
            }
        });
        let mut mailbox = Mailbox { child, port: port.parse()?, lines };
        until("the mail server", async || {
            if let Some(status) = mailbox.child.try_wait()? {
                bail!("it ended with {status}");
            }
            Ok(!mailbox.lines().is_empty())
        })
        .await?;
        Ok(mailbox)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with it").clone()
    }

    fn all(&self) -> Result<Vec<Mail>> {
        let mails = self.lines().into_iter().skip(1).map(|line| serde_json::from_str(&line));
        mails.collect::<Result<_, _>>().context("the mail server's output is not as expected")
    }

    /// What has come so far, the oldest first. The first line says that the server is ready.
    pub fn mails(&self) -> Result<Vec<Mail>> {
        let mut mails = self.all()?;
        mails.retain(|mail| mail.to != [NOBODY_ELSE]);
        Ok(mails)
    }

    /// Waits until the server has dealt with everything that it was sent before: it is one loop, and a mail of our own
    /// goes through it behind the others.
    pub async fn come_to_rest(&self) -> Result<()> {
        let address = NOBODY_ELSE.parse::<lettre::message::Mailbox>()?;
        let before = self.all()?.iter().filter(|mail| mail.to == [NOBODY_ELSE]).count();
        let mail = Message::builder().from(address.clone()).to(address).body(String::new())?;
        let server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(self.port);
        server.build().send(mail).await.context("the mail server")?;
        until("the mail server to come to rest", async || {
            Ok(self.all()?.iter().filter(|mail| mail.to == [NOBODY_ELSE]).count() > before)
        })
        .await
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // an error means that it has ended
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
