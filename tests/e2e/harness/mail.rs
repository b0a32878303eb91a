//! A mail server that isn't ours: `smtp_server.py` under Python's aiosmtpd, a process that prints what it was given.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use super::servers::SCRIPT;
use super::until;

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/harness/smtp_server.py");

/// Makes a certificate for localhost that nobody else vouches for; gives its file and that of its key.
pub fn certificate(directory: &Path, name: &str) -> Result<(String, String)> {
    let file = |end: &str| directory.join(format!("{name}.{end}.pem")).display().to_string();
    let (certificate, key) = (file("cert"), file("key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate])
        .output()
        .context("run openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok((certificate, key))
}

/// A running server.
pub struct MailServer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    /// Starts it on this port; `more` is a certificate, its key, a name and a password, or nothing.
    pub async fn start(port: u16, more: &[&str]) -> Result<MailServer> {
        let mut child = Command::new(SCRIPT)
            .args(["aiosmtpd", SERVER, &port.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the mail server")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let written = lines.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                written.lock().expect("nobody panics with the lines").push(line);
            }
        });
        let server = MailServer { child, lines };
        until(Duration::from_secs(60), "the mail server", async || Ok(!server.lines().is_empty())).await?;
        ensure!(server.lines()[0] == "ready", "the mail server says {:?}", server.lines());
        Ok(server)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with the lines").clone()
    }

    /// What it has taken so far.
    pub fn mails(&self) -> Result<Vec<Json>> {
        self.lines().iter().skip(1).map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
