//! The settings of outbox rows that have a status: whose answers count, how often an event is sent again, and who is
//! told when it is given up.

use std::path::PathBuf;
use std::time::Duration;

use headwater_outbox::{
    FeedbackSettings, MailSettings, MailTls, NotifySettings, Policies, Policy, ProcessedWhen,
};
use headwater_pg::Secret;
use headwater_pipeline::Settings;
use headwater_pipeline::settings::{OutboxTable, SinkSettings, SnapshotSettings};

use super::as_written::{Field, Key, Section, default_text, key_name, read_field, refuse_unknown, sections};
use super::layers::Table;
use super::problem::{Origin, Problems};
use super::settings::{Findings, take_secret};
use super::value::{Names, Value};

sections! {
    /// The answers of consumers to events of outbox tables with `status = true`, which make rows PROCESSED, FAILED and
    /// DEAD. Without `topic`, SENT is the last status.
    "feedback" => pub struct Feedback {
        /// The topic that consumers answer on, created if it is missing. An answer is JSON: `{"event_id": …, "status":
        /// "SUCCESS" or "FAILED", "reason": …, "consumer": …, "attempt": …, "at": …}`; `attempt` is what the header
        /// `headwater.attempt` of the event said, or 1. Or it is Avro behind the registry's header, a record with fields
        /// of these names (`schema_registry.url`).
        topic: String,
        /// The consumer group that Headwater reads it in.
        group: String = "headwater-outbox",
        /// A name of this instance that stays the same across restarts (`group.instance.id`): an instance that was
        /// killed reads on at once when it is back, and not only when its session has timed out. Two instances need two.
        instance: String,
        /// Where answers go that can't be read or are about no row. The default is the topic's name and `.dead`.
        dead_letter_topic: String,
        /// `any`: one success makes an event PROCESSED. `all`: that takes one of each of `consumers`.
        processed_when: ProcessedWhen = "any",
        /// The names of the consumers whose answers count; with `any` and without this, everyone's.
        consumers: Names,
        /// How often an event is sent until it is DEAD.
        max_attempts: i32 = "5",
        /// The pause before an event is sent again. It doubles with each attempt, and varies by half, so that many
        /// events that failed together don't come back together.
        backoff: Duration = "10s",
        /// The longest pause.
        backoff_max: Duration = "1h",
        /// How long after sending no answer counts as a failure. Without this, silence means nothing.
        answer_timeout: Duration,
    }

    /// What some event types have otherwise than `[feedback]` says. May be given several times; where several name a
    /// type, the later one holds.
    "event_type" => pub struct EventType {
        /// Required. The event types, a name or a list of those, `*` standing for any characters.
        types: Names,
        /// As in `[feedback]`, for these types.
        processed_when: ProcessedWhen,
        /// As in `[feedback]`, for these types.
        consumers: Names,
        /// As in `[feedback]`, for these types.
        max_attempts: i32,
        /// As in `[feedback]`, for these types.
        backoff: Duration,
        /// As in `[feedback]`, for these types.
        backoff_max: Duration,
        /// As in `[feedback]`, for these types.
        answer_timeout: Duration,
    }
}

sections! {
    /// When people are told of events that are DEAD. Without `webhook` and `[mail]`, only log and metrics say it.
    "notify" => pub struct NotifyWritten {
        /// How long the first one waits for others to share its message.
        interval: Duration = "1m",
        /// An address that takes a POST of JSON: `{"database", "outbox", "count", "events"}`, with up to 50 events.
        webhook: String,
    }

    /// The mail server, and who is told of events that are DEAD.
    "mail" => pub struct Mail {
        /// The server. Without it there is no mail.
        host: String,
        /// Its port.
        port: i32 = "587",
        /// How the connection is protected: `starttls` (or no mail), `tls` from the first byte, `none`.
        tls: MailTls = "starttls",
        /// The certificates to trust, as a PEM file with one of them. The default is the system's roots.
        ca_file: PathBuf,
        /// The name to log in with.
        username: String,
        /// The password. Meant for the environment (`HEADWATER_MAIL__PASSWORD`); in the file it is warned about.
        password: Secret,
        /// A file that holds the password and nothing else.
        password_file: PathBuf,
        /// Required with `host`. The sender, `Headwater <headwater@example.com>`.
        from: String,
        /// Required with `host`. The recipients.
        to: Names,
        /// The subject; `{count}`, `{outbox}` and `{database}` stand for what they say.
        subject: String = "{count} events of {outbox} in {database} are DEAD",
        /// The text; `{events}` stands for the list of events, of which there are up to 50.
        template: String = "The last attempt of these events failed. They stay until somebody retries or cancels them:\n\n  headwater outbox ls --status DEAD\n\n{events}",
    }
}

/// What these sections say.
#[derive(Debug)]
pub struct Life {
    topic: Option<Topic>,
    notify: Option<NotifySettings>,
}

impl Life {
    /// The topics that are for answers and not for events.
    pub fn topics(&self) -> Vec<String> {
        let topics = self.topic.iter().flat_map(|topic| [&topic.topic, &topic.dead_letter_topic]);
        topics.cloned().collect()
    }
}

/// What was written of them.
#[derive(Default, Clone)]
pub struct LifeWritten {
    pub feedback: Feedback,
    pub event_type: Vec<EventType>,
    pub notify: NotifyWritten,
    pub mail: Mail,
}

#[derive(Debug)]
struct Topic {
    topic: String,
    group: String,
    instance: Option<String>,
    dead_letter_topic: String,
    policies: Policies,
}

/// Makes the settings of answers.
pub fn make_life(written: LifeWritten, findings: &mut Findings) -> Option<Life> {
    let LifeWritten { feedback, event_type, notify, mail } = written;
    let (topic, notify) = (make_topic(feedback, event_type, findings), make_notify(notify, mail, findings));
    Some(Life { topic: topic?, notify: notify? })
}

/// Nobody would have to answer, and the first who does would stand for all.
const NOBODY: &str = "\"all\" needs the list of consumers";

fn written_at(topic: &Field<String>, findings: &Findings) -> Origin {
    topic.located().map_or(findings.file.clone(), |(_, origin)| origin.clone())
}

/// The outer option is none when something is wrong.
fn make_topic(written: Feedback, types: Vec<EventType>, findings: &mut Findings) -> Option<Option<Topic>> {
    let Feedback {
        topic,
        group,
        instance,
        dead_letter_topic,
        processed_when,
        consumers,
        max_attempts,
        backoff,
        backoff_max,
        answer_timeout,
    } = written;
    let all_of_nobody =
        |policy: &Policy| policy.processed_when == ProcessedWhen::All && policy.consumers.is_empty();
    let default = Policy {
        processed_when: processed_when.value()?,
        consumers: consumers.value().unwrap_or_default().0,
        max_attempts: at_least_one(max_attempts, "feedback.max_attempts", findings)?,
        backoff: backoff.value()?,
        backoff_max: backoff_max.value()?,
        answer_timeout: answer_timeout.value(),
    };
    if all_of_nobody(&default) {
        return findings.wrong(&written_at(&topic, findings), "feedback.processed_when", NOBODY);
    }
    let mut rules: Vec<(Vec<String>, Policy)> = Vec::new();
    for rule in types {
        let EventType {
            types,
            processed_when,
            consumers,
            max_attempts,
            backoff,
            backoff_max,
            answer_timeout,
        } = rule;
        let types = findings.require(types, "event_type.types", "types = \"OrderPlaced\"")?.0;
        let policy = Policy {
            processed_when: processed_when.value().unwrap_or(default.processed_when),
            consumers: consumers.value().map_or_else(|| default.consumers.clone(), |names| names.0),
            max_attempts: match max_attempts {
                Field::Missing => default.max_attempts,
                written => at_least_one(written, "event_type.max_attempts", findings)?,
            },
            backoff: backoff.value().unwrap_or(default.backoff),
            backoff_max: backoff_max.value().unwrap_or(default.backoff_max),
            answer_timeout: answer_timeout.value().or(default.answer_timeout),
        };
        if all_of_nobody(&policy) {
            return findings.wrong(&written_at(&topic, findings), "event_type.processed_when", NOBODY);
        }
        rules.push((types, policy));
    }
    let topic = match topic {
        Field::Missing => None,
        topic => {
            let topic = topic.value()?;
            Some(Topic {
                group: group.value()?,
                instance: instance.value(),
                dead_letter_topic: dead_letter_topic.value().unwrap_or_else(|| format!("{topic}.dead")),
                policies: Policies { default, rules },
                topic,
            })
        }
    };
    Some(topic)
}

/// The outer option is none when something is wrong.
fn make_notify(
    written: NotifyWritten,
    mail: Mail,
    findings: &mut Findings,
) -> Option<Option<NotifySettings>> {
    let NotifyWritten { interval, webhook } = written;
    let mail = match &mail.host {
        Field::Missing => None,
        _ => Some(make_mail(mail, findings)?),
    };
    if let Field::Set(url, origin) = &webhook
        && !url.starts_with("http://")
        && !url.starts_with("https://")
    {
        return findings.wrong(origin, "notify.webhook", "does not start with http:// or https://");
    }
    let (interval, webhook) = (interval.value()?, webhook.value());
    Some((mail.is_some() || webhook.is_some()).then_some(NotifySettings { interval, webhook, mail }))
}

fn make_mail(written: Mail, findings: &mut Findings) -> Option<MailSettings> {
    let Mail { host, port, tls, ca_file, username, password, password_file, from, to, subject, template } =
        written;
    let port = match port {
        Field::Set(port, origin) => match u16::try_from(port) {
            Ok(port) if port > 0 => port,
            _ => return findings.wrong(&origin, "mail.port", "between 1 and 65535"),
        },
        _ => return None,
    };
    let ca_pem = match ca_file {
        Field::Set(path, origin) => match std::fs::read(&path) {
            Ok(pem) => Some(pem),
            Err(error) => return findings.wrong(&origin, "mail.ca_file", format!("can't be read: {error}")),
        },
        Field::Bad => return None,
        Field::Missing => None,
    };
    let password = take_secret(password, "mail.password", password_file, "mail.password_file", findings);
    let login = match (username, password) {
        (Field::Set(username, _), Some(password)) => Some((username, password)),
        (Field::Missing, None) => None,
        (Field::Set(_, origin), None) => {
            return findings.wrong(
                &origin,
                "mail.username",
                "needs mail.password or mail.password_file as well",
            );
        }
        _ => {
            let file = findings.file.clone();
            return findings.wrong(&file, "mail.password", "needs mail.username as well");
        }
    };
    Some(MailSettings {
        host: host.value()?,
        port,
        tls: tls.value()?,
        ca_pem,
        login,
        from: findings.require(from, "mail.from", "from = \"headwater@example.com\"")?,
        to: findings.require(to, "mail.to", "to = \"team@example.com\"")?.0,
        subject: subject.value()?,
        template: template.value()?,
    })
}

fn at_least_one(field: Field<i32>, key: &str, findings: &mut Findings) -> Option<i32> {
    match field {
        Field::Set(number, origin) if number < 1 => findings.wrong(&origin, key, "at least 1"),
        field => field.value(),
    }
}

/// Answers and messages are about rows with a status; without one, somebody waits for them in vain.
pub fn refuse_without_status(life: &Life, outbox: &[OutboxTable], findings: &mut Findings) {
    if outbox.iter().any(|table| table.status) {
        return;
    }
    let file = findings.file.clone();
    for (key, is_written) in [("feedback.topic", life.topic.is_some()), ("notify", life.notify.is_some())] {
        if is_written {
            findings.problems.add(&file, key, "has a meaning only where an [[outbox]] has status = true");
        }
    }
}

/// What keeping statuses needs; none where no table has one.
pub fn make(settings: &Settings, life: Life) -> Option<headwater_outbox::Settings> {
    let tables: Vec<_> = settings.outbox.iter().filter(|table| table.status).cloned().collect();
    if tables.is_empty() {
        return None;
    }
    let kafka = match &settings.sink {
        SinkSettings::Kafka { kafka, registry } => Some((kafka.clone(), registry.clone())),
        SinkSettings::Stdout | SinkSettings::File { .. } | SinkSettings::Discard => None,
    };
    let feedback = life.topic.zip(kafka).map(|(topic, (kafka, registry))| FeedbackSettings {
        kafka,
        registry,
        partitions: settings.topics.partitions,
        replication_factor: settings.topics.replication_factor,
        topic: topic.topic,
        group: topic.group,
        instance: topic.instance,
        dead_letter_topic: topic.dead_letter_topic,
        policies: topic.policies,
    });
    Some(headwater_outbox::Settings {
        postgres: settings.postgres.clone(),
        slot: settings.slot.clone(),
        tables,
        feedback,
        notify: life.notify,
    })
}

/// A snapshot sends what was not sent before. A condition that was written for the table comes later, and holds.
pub fn copy_new_rows_only(outbox: &[OutboxTable], snapshot: &mut SnapshotSettings) {
    let with_status = outbox.iter().filter(|table| table.status);
    let conditions = with_status
        .map(|table| (format!("{}.{}", table.schema, table.table), "status = 'NEW'".to_owned()))
        .collect();
    let written = std::mem::replace(&mut snapshot.filters, conditions);
    snapshot.filters.extend(written);
}
