//! Topics that are not for rows to choose: Headwater's own, Kafka's and the registry's.
//!
//! An outbox row's content names a part of its topic. Whatever `topic` and `aggregatetypes` allow, it never comes here.

use std::collections::HashMap;

use crate::settings::Settings;

/// By name, whose they are.
#[derive(Debug)]
pub(crate) struct ReservedTopics(HashMap<String, &'static str>);

impl ReservedTopics {
    pub(crate) fn of(settings: &Settings) -> ReservedTopics {
        let side = |name: &str| format!("{}.{name}", settings.topics.prefix);
        let mut topics: HashMap<String, &'static str> =
            settings.reserved_topics.iter().map(|topic| (topic.clone(), "one of Headwater's own")).collect();
        topics.insert("_schemas".to_owned(), "the schema registry's");
        topics.insert(settings.checkpoint.topic.clone(), "the checkpoint's (checkpoint.topic)");
        topics.insert(settings.dead_letters.topic.clone(), "that of dead letters (dead_letter.topic)");
        topics.insert(side(&settings.transactions.topic), "that of transactions (transactions.topic)");
        topics.insert(side(&settings.messages.topic), "that of logical messages (messages.topic)");
        let named = [
            (&settings.signals.topic, "that of signals (signals.topic)"),
            (&settings.notifications.topic, "that of notifications (notifications.topic)"),
        ];
        topics.extend(named.into_iter().filter_map(|(topic, whose)| Some((topic.clone()?, whose))));
        ReservedTopics(topics)
    }

    /// Whose topic it is, if it is none for a row.
    pub(crate) fn whose(&self, topic: &str) -> Option<&'static str> {
        if topic.starts_with("__") { Some("one of Kafka's own") } else { self.0.get(topic).copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_own_topics_only() {
        let mut settings = crate::recovery::tests::settings();
        settings.topics.prefix = "shop".to_owned();
        settings.checkpoint.topic = "headwater.checkpoint".to_owned();
        settings.dead_letters.topic = "shop.dead_letter".to_owned();
        settings.signals.topic = Some("ask".to_owned());
        settings.notifications.topic = Some("told".to_owned());
        settings.reserved_topics = vec!["feedback".to_owned(), "feedback.dead".to_owned()];
        let reserved = ReservedTopics::of(&settings);
        let side =
            [&settings.transactions.topic, &settings.messages.topic].map(|name| format!("shop.{name}"));
        for own in [
            "__consumer_offsets",
            "__transaction_state",
            "_schemas",
            "headwater.checkpoint",
            "ask",
            "told",
            "feedback",
            "feedback.dead",
            "shop.dead_letter",
            &side[0],
            &side[1],
        ] {
            assert!(reserved.whose(own).is_some(), "{own}");
        }
        for event in ["outbox.event.order", "feedback.order", "_order", "shop.public.item", "checkpoint"] {
            assert!(reserved.whose(event).is_none(), "{event}");
        }
    }
}
