//! Telling people of events that were given up: one mail, or one call of a webhook, for all of them within an interval.
//!
//! In: rows that are DEAD and not told of. Out: a message, and `notified_at` in the same rows once it is accepted; so
//! what a crash or a mail server that is away leaves untold is told later. A crash between the two tells it twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use headwater_pg::{Client, Error};
use headwater_pgoutput::Lsn;
use headwater_pipeline::{Metrics, Status};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Notify;

use crate::mail;
use crate::pause::Pause;
use crate::settings::{MailSettings, NotifySettings, Settings};
use crate::table::{self, LoadError, Table};

/// Rows that are told of at a time; what is more comes with the next message.
const ROWS_MAX: i64 = 10_000;

/// Rows that a message lists; the others are counted.
const LISTED_MAX: usize = 50;

/// How long a webhook may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How often an instance that stands by looks whether it still does.
const OWNER_TICK: Duration = Duration::from_secs(1);

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
    pub(crate) status: Arc<Status>,
    pub(crate) died: Arc<Notify>,
    /// What the webhook has taken while the mail server has not, and the other way round.
    pub(crate) called: HashSet<(String, i32)>,
    pub(crate) mailed: HashSet<(String, i32)>,
}

impl Notifier {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut pause = Pause::default();
        loop {
            let Err(trouble) = self.session(&mut pause).await;
            self.metrics.outbox_notifications.with_label_values(&["failed"]).inc();
            pause.after("telling people of outbox events that were given up", &trouble).await;
        }
    }

    async fn session(&mut self, pause: &mut Pause) -> Result<std::convert::Infallible, Trouble> {
        loop {
            // Of several instances the one that has the stream: two of them would share what is one message.
            while self.status.confirmed() == Lsn(0) {
                tokio::time::sleep(OWNER_TICK).await;
            }
            // A connection for each time: it happens seldom.
            let client = headwater_pg::connect(&self.settings.postgres).await?;
            for table in self.settings.tables.clone() {
                let table = table::load(&client, &table).await?;
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

    /// One message; says whether there are more rows. A lock keeps other instances from telling of them too. No transaction
    /// is open while a mail server takes its time: it would keep vacuum from its work, and a new slot from being made.
    async fn tell(&mut self, client: &Client, table: &Table) -> Result<bool, Trouble> {
        const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('headwater.outbox_notify'), hashtext($1))";
        const UNLOCK: &str = "SELECT pg_advisory_unlock(hashtext('headwater.outbox_notify'), hashtext($1))";
        let sql = format!(
            "SELECT o.{event_type}::text, o.{kind}::text, o.{aggregate}::text, o.{id}::text, o.attempt, o.failed_by, \
               o.reason FROM {t} o WHERE o.failed_at IS NOT NULL AND o.status = 'DEAD' AND o.notified_at IS NULL LIMIT $1",
            t = table.sql,
            id = table.id,
            event_type = table.event_type,
            kind = table.aggregatetype,
            aggregate = table.aggregateid,
        );
        // It ends with the connection, which is dropped where something fails.
        let locked = client.query_one(LOCK, &[&&*table.name]).await.map_err(Error::from)?;
        if !locked.get::<_, bool>(0) {
            return Ok(false);
        }
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
            told(client, table, &dead).await?;
        }
        client.query_one(UNLOCK, &[&&*table.name]).await.map_err(Error::from)?;
        if !dead.is_empty() {
            self.called.clear();
            self.mailed.clear();
            self.metrics.outbox_notifications.with_label_values(&["sent"]).inc();
        }
        Ok(dead.len() as i64 == ROWS_MAX)
    }

    /// To whoever is to be told. One that can't be reached does not keep the other from being told, and is not the reason
    /// for telling the other again.
    async fn send(&mut self, table: &Table, dead: &[Dead]) -> Result<(), Trouble> {
        let database = &self.settings.postgres.database;
        let mut outcome = Ok(());
        let untold = untold(dead, &self.called);
        if let Some(url) = &self.notify.webhook
            && !untold.is_empty()
        {
            let listed: Vec<_> = untold.iter().take(LISTED_MAX).map(|row| row.json()).collect();
            let body = serde_json::json!({
                "database": database, "outbox": &*table.name, "count": untold.len(), "events": listed,
            });
            match call(url, &body).await {
                Ok(()) => self.called.extend(untold.iter().map(|row| row.sending())),
                Err(trouble) => outcome = Err(trouble),
            }
        }
        let untold = self::untold(dead, &self.mailed);
        if let Some(mail) = &self.notify.mail
            && !untold.is_empty()
        {
            let (subject, body) =
                (subject(mail, database, table, &untold), body(mail, database, table, &untold));
            match mail::post(mail, &subject, &body).await {
                Ok(refused) => {
                    self.mailed.extend(untold.iter().map(|row| row.sending()));
                    let refused = refused as u64;
                    self.metrics.outbox_notifications.with_label_values(&["refused"]).inc_by(refused);
                }
                Err(why) => outcome = Err(Trouble::Untold(why)),
            }
        }
        outcome
    }
}

fn untold<'a>(dead: &'a [Dead], told: &HashSet<(String, i32)>) -> Vec<&'a Dead> {
    dead.iter().filter(|row| !told.contains(&row.sending())).collect()
}

/// The message was taken. What was sent again meanwhile is another attempt, and not meant.
async fn told(client: &Client, table: &Table, dead: &[Dead]) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {t} o SET notified_at = clock_timestamp() FROM unnest($1::text[], $2::int[]) AS e (id, attempt) \
         WHERE o.{id} = e.id::{id_type} AND o.attempt = e.attempt AND o.status = 'DEAD'",
        t = table.sql,
        id = table.id,
        id_type = table.id_type,
    );
    let (ids, attempts): (Vec<&str>, Vec<i32>) =
        dead.iter().map(|row| (row.id.as_str(), row.attempt)).unzip();
    client.execute(&sql, &[&ids, &attempts]).await?;
    Ok(())
}

impl Dead {
    /// The event and which sending of it was the last.
    fn sending(&self) -> (String, i32) {
        (self.id.clone(), self.attempt)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "type": self.event_type, "aggregate": self.aggregate, "attempts": self.attempt,
            "failed_by": self.by, "reason": self.reason,
        })
    }
}

fn subject(mail: &MailSettings, database: &str, table: &Table, dead: &[&Dead]) -> String {
    let subject = fill(&mail.subject, database, table, dead.len(), "");
    // A header is one line.
    subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn body(mail: &MailSettings, database: &str, table: &Table, dead: &[&Dead]) -> String {
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
