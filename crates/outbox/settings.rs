//! What the life of outbox rows depends on, validated.

use std::time::Duration;

use headwater_pg::{ConnectSettings, Secret};

use crate::policy::Policies;

/// Everything that keeping statuses needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database with the outbox tables.
    pub postgres: ConnectSettings,
    /// The slot of the pipeline, under whose name this database remembers what was looked at.
    pub slot: String,
    /// The tables with a status, with the names of their columns.
    pub tables: Vec<headwater_pipeline::settings::OutboxTable>,
    /// The answers of consumers; without them SENT is the end.
    pub feedback: Option<FeedbackSettings>,
    /// Who is told of what is DEAD.
    pub notify: Option<NotifySettings>,
}

/// Where answers come from, and what they mean.
#[derive(Clone, Debug)]
pub struct FeedbackSettings {
    /// The cluster.
    pub kafka: headwater_kafka::Settings,
    /// Where schemas of answers in Avro are; without one, answers are JSON.
    pub registry: Option<headwater_avro::registry::RegistrySettings>,
    /// Of topics that are created here.
    pub partitions: i32,
    /// Of topics that are created here.
    pub replication_factor: i32,
    /// The topic of answers.
    pub topic: String,
    /// The consumer group.
    pub group: String,
    /// `group.instance.id`: static membership (KIP-345).
    pub instance: Option<String>,
    /// Where unusable answers go.
    pub dead_letter_topic: String,
    /// What answers mean, by event type.
    pub policies: Policies,
}

/// Who is told of what is DEAD.
#[derive(Clone, Debug)]
pub struct NotifySettings {
    /// How long the first one waits for others to share its message.
    pub interval: Duration,
    /// An address that takes a POST of JSON.
    pub webhook: Option<String>,
    /// A mail server and its recipients.
    pub mail: Option<MailSettings>,
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct MailSettings {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// Certificates to trust in place of the well-known ones.
    pub ca_pem: Option<Vec<u8>>,
    /// Name and password.
    pub login: Option<(String, Secret)>,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// With `{database}`, `{outbox}` and `{count}`.
    pub subject: String,
    /// The same with `{events}`.
    pub template: String,
}

/// Protection of the connection to a mail server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// None.
    None,
    /// STARTTLS, or no mail.
    Starttls,
    /// TLS from the first byte.
    Tls,
}

impl MailTls {
    /// As configurations write them.
    pub const WORDS: &[(&str, MailTls)] =
        &[("none", MailTls::None), ("starttls", MailTls::Starttls), ("tls", MailTls::Tls)];
}
