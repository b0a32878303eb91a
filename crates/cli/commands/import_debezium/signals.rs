//! Debezium's channels of signals and notifications.

use super::report::Fate;
use super::source::Given;
use super::translate::Work;

/// The channels that a property lists.
fn channels(work: &Work<'_>, property: &str) -> Vec<String> {
    let listed = work.effective(property);
    listed.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

fn listens(work: &Work<'_>, channel: &str) -> bool {
    channels(work, "signal.enabled.channels").iter().any(|name| name == channel)
}

fn tells(work: &Work<'_>, channel: &str) -> bool {
    channels(work, "notification.enabled.channels").iter().any(|name| name == channel)
}

fn not_enabled(channel: &str) -> (Fate, String) {
    (Fate::Other, format!("the channel {channel} is not enabled, so Debezium does not use it either"))
}

/// A topic's name that this configuration takes.
fn topic(work: &mut Work<'_>, key: &str, given: &Given) -> (Fate, String) {
    let name = given.value.trim();
    if name.is_empty() || !name.chars().all(headwater_avro::legal_in_topic) {
        return (Fate::Unsupported, "it is no name of a topic".to_owned());
    }
    work.emit(key, name, &given.shown)
}

pub fn signal_table(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if given.value.trim().is_empty() || !listens(work, "source") {
        return not_enabled("source");
    }
    if given.value.trim().split('.').filter(|part| !part.is_empty()).count() < 2 {
        return (Fate::Unsupported, "it is not schema.table".to_owned());
    }
    let (fate, text) = work.emit("signals.table", given.value.trim(), &given.shown);
    (fate, format!("{text}; conditions in signals are refused unless signals.allow_filters = true"))
}

pub fn signal_topic(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if !listens(work, "kafka") {
        return not_enabled("kafka");
    }
    topic(work, "signals.topic", given)
}

pub fn signal_channels(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let listed = channels(work, "signal.enabled.channels");
    let unknown: Vec<&str> =
        listed.iter().map(String::as_str).filter(|name| !["source", "kafka"].contains(name)).collect();
    if !unknown.is_empty() {
        return (
            Fate::Unsupported,
            format!(
                "there is no channel {}: signals come from a table, a topic or headwater snapshot",
                unknown.join(", ")
            ),
        );
    }
    if listed.iter().any(|name| name == "kafka") && work.connector.value("signal.kafka.topic").is_none() {
        // Debezium's own default.
        let topic = format!("{}-signal", work.effective("topic.prefix").trim());
        return work.emit("signals.topic", topic, &given.shown);
    }
    (Fate::Carried, "signals.table and signals.topic say where signals come from".to_owned())
}

pub fn signal_file(work: &mut Work<'_>, _: &Given) -> (Fate, String) {
    if listens(work, "file") {
        return (Fate::Unsupported, "signals come from a table, a topic or headwater snapshot".to_owned());
    }
    not_enabled("file")
}

pub fn notification_channels(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    let listed = channels(work, "notification.enabled.channels");
    let unknown: Vec<&str> =
        listed.iter().map(String::as_str).filter(|name| !["sink", "log"].contains(name)).collect();
    let log = match listed.iter().any(|name| name == "log") {
        true => Some(work.emit("notifications.log", true, &given.shown)),
        false => None,
    };
    if !unknown.is_empty() {
        let text = format!("there is no channel {}: there are sink and log", unknown.join(", "));
        return (Fate::Unsupported, text);
    }
    log.unwrap_or((Fate::Carried, "notifications.topic says where they go".to_owned()))
}

pub fn notification_topic(work: &mut Work<'_>, given: &Given) -> (Fate, String) {
    if !tells(work, "sink") {
        return not_enabled("sink");
    }
    topic(work, "notifications.topic", given)
}
