//! Which topics are read, which table each goes to, and under which names.

use headwater_avro::glob_matches;
use headwater_kafka::TopicPartition;

use crate::halt::{Halt, HaltCause};
use crate::settings::{OnPoison, Settings, TableRule};
use crate::target::TargetName;

/// What the settings say of one topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicRule {
    pub(crate) target: TargetName,
    pub(crate) table: TableRule,
    pub(crate) on_poison: OnPoison,
}

/// A pattern with `*` and `?` as librdkafka's regular expression; what is none, or is one already, as it is.
pub(crate) fn subscription(pattern: &str) -> String {
    if pattern.starts_with('^') || !pattern.contains(['*', '?']) {
        return pattern.to_owned();
    }
    format!("^{}$", escaped(pattern))
}

fn escaped(pattern: &str) -> String {
    let mut regex = String::new();
    for c in pattern.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => regex.push(c),
            c => {
                regex.push('\\');
                regex.push(c);
            }
        }
    }
    regex
}

/// What this consumer writes itself and a pattern must not lead back to it, as regular expressions. Topics that are
/// named one by one are meant.
pub(crate) fn own_topics(settings: &Settings) -> Vec<String> {
    let events = settings.events.iter().flat_map(|events| &events.topics);
    let is_pattern = |topic: &String| topic.starts_with('^') || topic.contains(['*', '?']);
    if !settings.topics.iter().chain(events).any(is_pattern) {
        return Vec::new();
    }
    let letters = settings.dead_letter_topic.replace("{topic}", "*");
    let feedback = settings.events.iter().filter_map(|events| events.feedback_topic.as_deref());
    std::iter::once(letters.as_str()).chain(feedback).map(|topic| format!("^{}$", escaped(topic))).collect()
}

/// Whether a topic has events and not rows.
pub(crate) fn is_event_topic(settings: &Settings, topic: &str) -> bool {
    let mut patterns = settings.events.iter().flat_map(|events| &events.topics);
    patterns.any(|pattern| glob_matches(pattern, topic))
}

/// The rule of a topic.
pub(crate) fn rule_of(settings: &Settings, topic: &str) -> Result<TopicRule, Halt> {
    let matches = |rule: &&TableRule| rule.topics.iter().any(|pattern| glob_matches(pattern, topic));
    let table = settings.tables.iter().find(matches).cloned().unwrap_or_default();
    let text = match &table.target {
        Some(target) => target.clone(),
        None => {
            let mut parts = topic.rsplit('.');
            let (last, before) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("public"));
            settings.target.replace("{schema}", before).replace("{table}", last)
        }
    };
    let Some((schema, name)) = text.split_once('.') else {
        return Err(Halt::new(
            HaltCause::TargetUnsuitable,
            format!("topic {topic}: \"{text}\" is not schema.table"),
            "correct apply.target, or write an [[apply_table]] for the topic",
        ));
    };
    let target = TargetName { schema: schema.to_owned(), table: name.to_owned() };
    let on_poison = table.on_poison.unwrap_or(settings.on_poison);
    Ok(TopicRule { target, table, on_poison })
}

impl TopicRule {
    /// The name that a field has in the table; none if it is left out.
    pub(crate) fn column(&self, field: &str) -> Option<String> {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| glob_matches(pattern, field));
        if any(&self.table.exclude) || !self.table.include.is_empty() && !any(&self.table.include) {
            return None;
        }
        let renamed = self.table.renames.iter().find(|(from, _)| from == field);
        Some(renamed.map_or(field, |(_, to)| to).to_owned())
    }
}

/// A place for messages.
pub(crate) fn at(place: &TopicPartition, offset: i64) -> String {
    format!("topic {} partition {} offset {offset}", place.topic, place.partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_as_librdkafka_has_them() {
        for (pattern, expected) in [
            ("shop.public.item", "shop.public.item"),
            ("shop.public.*", "^shop\\.public\\..*$"),
            ("a-b_?", "^a-b_.$"),
            ("^shop\\..*", "^shop\\..*"),
        ] {
            assert_eq!(subscription(pattern), expected);
        }
    }
}
