//! The e-mail service: one mail for each change of a profile, whatever comes twice.
//!
//! Each event is checked against the registered schema; what does not fit goes to a dead letter topic and keeps nobody
//! waiting. The version in `seen` passes over what is repeated or older, and the mail is written down in the same
//! transaction. A mail server knows no transactions: a crash between its "taken" and our note sends a mail twice, with
//! the same Message-ID.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use clap::Args;
use lettre::Address;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::Offset;
use serde_json::Value as Json;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::outgoing;
use super::schema::{self, Registered};
use crate::consume::{header, is_passing, subscribe};
use crate::database::{Database, is_refusal, of_database};
use crate::service::{self, Failure, Stop};
use crate::watch::{self, Outcome};

/// How long Kafka may take for a request.
const LIMIT: Duration = Duration::from_secs(30);

/// What it is called with.
#[derive(Args, Clone)]
pub struct Settings {
    #[arg(long)]
    pub listen: SocketAddr,
    #[arg(long)]
    pub database_url: String,
    #[arg(long)]
    pub bootstrap: String,
    #[arg(long)]
    pub registry: String,
    /// The topic of the events; dead letters go to its name and `.dead`.
    #[arg(long)]
    pub topic: String,
    #[arg(long)]
    pub group: String,
    /// The subject of the schema.
    #[arg(long)]
    pub subject: String,
    /// The mail server's port on this machine.
    #[arg(long)]
    pub smtp_port: u16,
}

/// What an operator may ask for.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Replay,
    Pause,
    Resume,
}

/// An operator's order, and where to say what became of it.
type Asked = (Order, oneshot::Sender<Result<()>>);

struct Mailer {
    settings: Settings,
    database: Database,
    consumer: Arc<StreamConsumer>,
    dead_letters: FutureProducer,
    schema: Mutex<Registered>,
    /// Says that there is a mail to send.
    written: Arc<Notify>,
}

/// Runs until SIGTERM: what has begun is finished, offsets are committed, and the group is left.
pub async fn run(settings: &Settings) -> Result<()> {
    let stop = Stop::at_signals()?;
    let consumer = subscribe(&settings.bootstrap, &settings.group, None, &[&settings.topic])?;
    let dead_letters = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &settings.bootstrap)
        .set("enable.idempotence", "true")
        .create()
        .context("cannot create a producer")?;
    let mailer = Mailer {
        settings: settings.clone(),
        database: Database::new(&settings.database_url)?,
        consumer: Arc::clone(&consumer),
        dead_letters,
        schema: Mutex::new(schema::newest(&settings.registry, &settings.subject).await?),
        written: Arc::default(),
    };
    let version = mailer.schema.lock().await.version;
    tracing::info!(version, "events are checked against the registered schema");
    let (say, orders) = mpsc::channel(8);
    let router = Router::new()
        .route("/replay", post(ask).with_state((say.clone(), Order::Replay)))
        .route("/pause", post(ask).with_state((say.clone(), Order::Pause)))
        .route("/resume", post(ask).with_state((say, Order::Resume)));
    let mails = Database::new(&settings.database_url)?;
    tokio::try_join!(
        service::serve(settings.listen, router, stop.clone()),
        mailer.read(orders, &stop),
        watch::measure(&consumer, &stop),
        outgoing::send(&mails, settings.smtp_port, &mailer.written, &stop),
    )?;
    // nothing stored is nothing to commit
    consumer.commit_consumer_state(CommitMode::Sync).ok();
    Ok(())
}

async fn ask(State((say, order)): State<(mpsc::Sender<Asked>, Order)>) -> Result<(), Failure> {
    let (done, outcome) = oneshot::channel();
    say.send((order, done)).await?;
    Ok(outcome.await??)
}

impl Mailer {
    async fn read(&self, mut orders: mpsc::Receiver<Asked>, stop: &Stop) -> Result<()> {
        loop {
            let received = tokio::select! {
                received = self.consumer.recv() => received,
                Some((order, done)) = orders.recv() => {
                    // an error means that whoever asked has gone
                    done.send(self.obey(order)).ok();
                    continue;
                }
                () = stop.wanted() => return Ok(()),
            };
            let message = match received {
                Ok(message) => message,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error).context("cannot read from Kafka"),
            };
            while let Err(error) = self.handle(&message).await {
                if stop.is_wanted() {
                    return Ok(());
                }
                tracing::warn!(error = format!("{error:#}"), "an event could not be handled yet");
                watch::count(message.topic(), Outcome::NotYet);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            // refused when the partition has moved: another instance reads it again, and `seen` knows it
            self.consumer.store_offset_from_message(&message).ok();
        }
    }

    fn obey(&self, order: Order) -> Result<()> {
        tracing::info!(?order, "asked by an operator");
        let partitions = self.consumer.assignment()?;
        ensure!(partitions.count() > 0, "no partition is ours yet");
        match order {
            Order::Pause => {
                self.consumer.pause(&partitions)?;
                watch::paused(true);
            }
            Order::Resume => {
                self.consumer.resume(&partitions)?;
                watch::paused(false);
            }
            Order::Replay => {
                for partition in partitions.elements() {
                    let (topic, number) = (partition.topic(), partition.partition());
                    tokio::task::block_in_place(|| {
                        self.consumer.seek(topic, number, Offset::Beginning, LIMIT)
                    })?;
                }
            }
        }
        Ok(())
    }

    async fn handle(&self, message: &BorrowedMessage<'_>) -> Result<()> {
        let outcome = match self.check(message).await? {
            Err(reason) => {
                self.set_aside(message, &reason).await?;
                Outcome::DeadLetter
            }
            Ok((event_id, profile)) => match self.write_down(&event_id, &profile).await {
                Ok(true) => Outcome::Handled,
                Ok(false) => Outcome::SeenBefore,
                // what fits the schema may still be what PostgreSQL can't store; its words would have values
                Err(error) if is_refusal(&error) => {
                    let state =
                        of_database(&error).and_then(|error| error.code()).map_or("", |state| state.code());
                    self.set_aside(message, &format!("it can't be stored: SQLSTATE {state}")).await?;
                    Outcome::DeadLetter
                }
                Err(error) => return Err(error),
            },
        };
        watch::count(message.topic(), outcome);
        self.written.notify_one();
        Ok(())
    }

    /// The event's id and payload, or why it can't be used. What does not fit may be written by a newer schema than the one
    /// that is known here: it is looked for before anything is called wrong.
    async fn check(&self, message: &BorrowedMessage<'_>) -> Result<Result<(String, Json), String>> {
        let mut schema = self.schema.lock().await;
        let checked = usable(message, &schema);
        if checked.is_ok() {
            return Ok(checked);
        }
        let newest = schema::newest(&self.settings.registry, &self.settings.subject).await?;
        if newest.version == schema.version {
            return Ok(checked);
        }
        *schema = newest;
        Ok(usable(message, &schema))
    }

    /// Kafka has it before the event counts as handled. After a crash in between it is there twice.
    async fn set_aside(&self, message: &BorrowedMessage<'_>, reason: &str) -> Result<()> {
        let topic = format!("{}.dead", self.settings.topic);
        let mut headers = message.headers().map_or_else(OwnedHeaders::new, |headers| headers.detach());
        for (key, value) in [
            ("dead_letter.reason", reason),
            ("dead_letter.partition", &message.partition().to_string()),
            ("dead_letter.offset", &message.offset().to_string()),
        ] {
            headers = headers.insert(rdkafka::message::Header { key, value: Some(value) });
        }
        let record = FutureRecord::to(&topic)
            .key(message.key().unwrap_or_default())
            .payload(message.payload().unwrap_or_default())
            .headers(headers);
        let sent = self.dead_letters.send(record, LIMIT).await;
        sent.map(drop).map_err(|(error, _)| error).context("cannot write a dead letter")
    }

    /// False where this version, or a newer one, was there before.
    async fn write_down(&self, event_id: &str, profile: &Json) -> Result<bool> {
        let text = |name: &str| profile[name].as_str().unwrap_or_default();
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let new = transaction
            .execute(
                "INSERT INTO seen AS s VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE
                 SET version = excluded.version WHERE s.version < excluded.version",
                &[&text("id"), &profile["version"].as_i64()],
            )
            .await?;
        if new == 1 {
            let body =
                format!("Dear {},\n\nyour profile was changed.\n\nReference: {event_id}\n", text("name"));
            transaction
                .execute(
                    "INSERT INTO mail (event_id, user_id, address, subject, body)
                     VALUES ($1, $2, $3, 'Your profile', $4) ON CONFLICT DO NOTHING",
                    &[&event_id, &text("id"), &text("email"), &body],
                )
                .await?;
        }
        transaction.commit().await?;
        Ok(new == 1)
    }
}

/// The event's id and payload, or why it can't be used. The reason names fields, and never has values.
fn usable(message: &BorrowedMessage<'_>, schema: &Registered) -> Result<(String, Json), String> {
    let id = header(message, "id").ok_or("there is no header id")?;
    let profile: Json = serde_json::from_slice(message.payload().unwrap_or_default())
        .map_err(|_| "the payload is no JSON".to_owned())?;
    let mut misfits = schema.misfits(&profile);
    // what no schema says: a mail to such an address would keep all others waiting, again and again
    if misfits.is_empty() && profile["email"].as_str().is_none_or(|email| email.parse::<Address>().is_err()) {
        misfits.push("email is no address".to_owned());
    }
    if misfits.is_empty() {
        return Ok((id, profile));
    }
    Err(format!("{} version {}: {}", schema.subject, schema.version, misfits.join(", ")))
}
