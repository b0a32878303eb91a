//! Telling people of events that were given up: one mail, or one call of a webhook, for all of them within an interval.
//!
//! In: rows that are DEAD and not told of. Out: a message, and `notified_at` in the same rows once it is accepted; so
//! what a crash or a mail server that is away leaves untold is told later. A crash between the two tells it twice.

use std::sync::Arc;
use std::time::Duration;

use headwater_pg::{Client, Error};
use headwater_pipeline::Metrics;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Notify;

use crate::pause::Pause;
use crate::settings::{MailSettings, MailTls, NotifySettings, Settings};
use crate::table::{self, LoadError, Table};

/// Rows that are told of at a time; what is more comes with the next message.
const ROWS_MAX: i64 = 10_000;

/// Rows that a message lists; the others are counted.
const LISTED_MAX: usize = 50;

/// How long a mail server or a webhook may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How often rows are looked for that nobody rang for: those of another instance, or of one that is gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// A row that is told of.
struct Dead {
    event_type: String,
    aggregate: String,
    id: String,
    attempt: i32,
    by: String,
    reason: String,
}

/// Why nobody could be told.
#[derive(Debug)]
enum Trouble {
    Table(LoadError),
    Untold(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Table(error) => error.fmt(f),
            Trouble::Untold(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Trouble {
        Trouble::Table(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Table(LoadError::Postgres(error))
    }
}

/// See the module's documentation.
pub(crate) struct Notifier {
    pub(crate) settings: Settings,
    pub(crate) notify: NotifySettings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) died: Arc<Notify>,
}

impl Notifier {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut pause = Pause::default();
        loop {
            let Err(trouble) = self.session(&mut pause).await;
            self.metrics.outbox_notifications.with_label_values(&["failed"]).inc();
            pause.after("telling people of outbox events that were given up", &trouble).await;
        }
    }

    async fn session(&self, pause: &mut Pause) -> Result<std::convert::Infallible, Trouble> {
        loop {
            // A connection for each time: it happens seldom.
            let client = headwater_pg::connect(&self.settings.postgres).await?;
            for table in &self.settings.tables {
                let table = table::load(&client, table).await?;
                while self.tell(&client, &table).await? {}
            }
            drop(client);
            pause.over();
            tokio::select! {
                // Others will follow the first: they share its message.
                () = self.died.notified() => tokio::time::sleep(self.notify.interval).await,
                () = tokio::time::sleep(LOOK_INTERVAL.max(self.notify.interval)) => {}
            }
        }
    }

    /// One message; says whether there are more rows.
    async fn tell(&self, client: &Client, table: &Table) -> Result<bool, Trouble> {
        let sql = format!(
            "UPDATE {t} o SET notified_at = clock_timestamp() FROM (SELECT d.{id} AS id, d.created_at FROM {t} d \
               WHERE d.failed_at IS NOT NULL AND d.status = 'DEAD' AND d.notified_at IS NULL LIMIT $1 \
               FOR UPDATE SKIP LOCKED) e \
             WHERE o.{id} = e.id AND o.created_at = e.created_at \
             RETURNING o.{event_type}::text, o.{kind}::text, o.{aggregate}::text, o.{id}::text, o.attempt, o.failed_by, o.reason",
            t = table.sql,
            id = table.id,
            event_type = table.event_type,
            kind = table.aggregatetype,
            aggregate = table.aggregateid,
        );
        client.batch_execute("BEGIN").await.map_err(Error::from)?;
        let rows = client.query(&sql, &[&ROWS_MAX]).await.map_err(Error::from)?;
        let dead: Vec<Dead> = rows
            .iter()
            .map(|row| {
                let text = |at: usize| row.get::<_, Option<String>>(at).unwrap_or_default();
                Dead {
                    event_type: text(0),
                    aggregate: format!("{} {}", text(1), text(2)),
                    id: text(3),
                    attempt: row.get(4),
                    by: text(5),
                    reason: text(6),
                }
            })
            .collect();
        if !dead.is_empty() {
            self.send(table, &dead).await?;
            self.metrics.outbox_notifications.with_label_values(&["sent"]).inc();
        }
        client.batch_execute("COMMIT").await.map_err(Error::from)?;
        Ok(dead.len() as i64 == ROWS_MAX)
    }

    /// To whoever is to be told; an error of one stops it, and both are told again.
    async fn send(&self, table: &Table, dead: &[Dead]) -> Result<(), Trouble> {
        let database = &self.settings.postgres.database;
        if let Some(url) = &self.notify.webhook {
            let listed: Vec<_> = dead.iter().take(LISTED_MAX).map(Dead::json).collect();
            let body = serde_json::json!({
                "database": database, "outbox": &*table.name, "count": dead.len(), "events": listed,
            });
            call(url, &body).await?;
        }
        if let Some(mail) = &self.notify.mail {
            post(mail, &subject(mail, database, table, dead), body(mail, database, table, dead)).await?;
        }
        Ok(())
    }
}

impl Dead {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "type": self.event_type, "aggregate": self.aggregate, "attempts": self.attempt,
            "failed_by": self.by, "reason": self.reason,
        })
    }
}

fn subject(mail: &MailSettings, database: &str, table: &Table, dead: &[Dead]) -> String {
    let subject = fill(&mail.subject, database, table, dead.len(), "");
    // A header is one line.
    subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn body(mail: &MailSettings, database: &str, table: &Table, dead: &[Dead]) -> String {
    let mut events = String::new();
    for row in dead.iter().take(LISTED_MAX) {
        let by = if row.by.is_empty() { "nobody" } else { row.by.as_str() };
        events.push_str(&format!(
            "{}  {}  {}\n    {} attempts, last by {by}: {}\n",
            row.event_type, row.aggregate, row.id, row.attempt, row.reason
        ));
    }
    if dead.len() > LISTED_MAX {
        events.push_str(&format!("and {} more\n", dead.len() - LISTED_MAX));
    }
    fill(&mail.template, database, table, dead.len(), &events)
}

/// Values come last, so that what stands in them is not taken for a placeholder.
fn fill(template: &str, database: &str, table: &Table, count: usize, events: &str) -> String {
    template
        .replace("{database}", database)
        .replace("{outbox}", &table.name)
        .replace("{count}", &count.to_string())
        .replacen("{events}", events, 1)
}

async fn post(mail: &MailSettings, subject: &str, body: String) -> Result<(), Trouble> {
    let untold = |what: &str, error: &dyn std::error::Error| {
        Trouble::Untold(format!("{what} {}:{}: {error}", mail.host, mail.port))
    };
    let mailbox = |text: &str| text.parse::<Mailbox>();
    let mut message = Message::builder()
        .from(mailbox(&mail.from).map_err(|error| untold("the sender's address, for", &error))?)
        .subject(subject);
    for to in &mail.to {
        message = message.to(mailbox(to).map_err(|error| untold("a recipient's address, for", &error))?);
    }
    let message = message.body(body).map_err(|error| untold("writing the mail for", &error))?;
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        .timeout(Some(LIMIT))
        .tls(tls(mail).map_err(|error| untold("preparing TLS for", &error))?);
    if let Some((username, password)) = &mail.login {
        transport = transport.credentials(Credentials::new(username.clone(), password.expose().to_owned()));
    }
    transport.build().send(message).await.map_err(|error| untold("the mail server", &error))?;
    Ok(())
}

fn tls(mail: &MailSettings) -> Result<Tls, lettre::transport::smtp::Error> {
    if mail.tls == MailTls::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(pem) = &mail.ca_pem {
        parameters = parameters
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(pem)?);
    }
    let parameters = parameters.build_rustls()?;
    Ok(if mail.tls == MailTls::Starttls { Tls::Required(parameters) } else { Tls::Wrapper(parameters) })
}

async fn call(url: &str, body: &serde_json::Value) -> Result<(), Trouble> {
    // The address may hold a token: no message quotes it.
    let untold = |why: String| Trouble::Untold(format!("the webhook: {why}"));
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(webhook_tls().map_err(|error| untold(error.to_string()))?)
        .timeout(LIMIT)
        .build()
        .map_err(|error| untold(error.without_url().to_string()))?;
    let answer = client.post(url).json(body).send().await;
    let answer = answer.map_err(|error| untold(error.without_url().to_string()))?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(untold(format!("it answers with {}", answer.status())))
}

fn webhook_tls() -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
