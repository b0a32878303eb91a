//! The cluster and its topics.

use std::collections::BTreeMap;

use headwater_kafka::{Admin, Error, TopicState};
use headwater_pg::publication::PublicationState;
use headwater_pipeline::Settings;
use headwater_pipeline::route::Routes;

use super::report::Report;
use super::tables::list;
use crate::commands::chain;

/// How many topics are asked about one by one; more tables than that share their settings anyway.
const TOPICS_ASKED_MAX: usize = 200;

/// Asks the brokers; the client blocks, so it has a thread of its own.
pub async fn check(
    settings: &Settings,
    kafka: headwater_kafka::Settings,
    publications: &[PublicationState],
    report: &mut Report,
) {
    warn_of_plaintext(&kafka, report);
    let servers = kafka.bootstrap_servers.clone();
    let topics: Vec<String> = routes(settings, publications).topics().into_iter().collect();
    let checkpoint = settings.checkpoint.topic.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&kafka, &topics, &checkpoint)).await;
    let answers = match asked {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            let advice = "check kafka.bootstrap_servers, kafka.properties and what lies between";
            return report.wrong("kafka", format!("{servers}: {}", chain(&error)), advice);
        }
        Err(error) => return report.failed("kafka", &error),
    };
    let noun = if answers.brokers == 1 { "broker" } else { "brokers" };
    report.ok("kafka", format!("{servers}, {} {noun}", answers.brokers));
    check_checkpoint_topic(&settings.checkpoint.topic, answers.checkpoint, report);
    check_topics(settings, answers.brokers, answers.topics, report);
}

struct Answers {
    brokers: usize,
    checkpoint: Result<Option<TopicState>, Error>,
    topics: BTreeMap<String, Result<Option<TopicState>, Error>>,
}

fn ask(kafka: &headwater_kafka::Settings, topics: &[String], checkpoint: &str) -> Result<Answers, Error> {
    let admin = Admin::new(kafka)?;
    let brokers = admin.broker_count()?;
    let checkpoint = admin.topic(checkpoint);
    let topics =
        topics.iter().take(TOPICS_ASKED_MAX).map(|topic| (topic.clone(), admin.topic(topic))).collect();
    Ok(Answers { brokers, checkpoint, topics })
}

/// The routes of all published tables that are no outbox.
pub fn routes(settings: &Settings, publications: &[PublicationState]) -> Routes {
    let tables = publications.iter().flat_map(|publication| &publication.tables);
    Routes::of(settings, tables.map(|table| (table.schema.clone(), table.name.clone())))
}

fn warn_of_plaintext(kafka: &headwater_kafka::Settings, report: &mut Report) {
    let protocol =
        kafka.properties.get("security.protocol").map_or("plaintext", String::as_str).to_lowercase();
    let local = kafka.bootstrap_servers.split(',').all(|server| {
        let host = server.trim().rsplit_once(':').map_or(server.trim(), |(host, _)| host);
        host == "localhost" || host == "[::1]" || host.starts_with("127.")
    });
    if !local && protocol.contains("plaintext") {
        report.warning(
            "kafka encryption",
            format!("security.protocol is {protocol}: nothing on the way to the brokers is encrypted"),
            "kafka.properties.\"security.protocol\" = \"SASL_SSL\" or \"SSL\"",
        );
    }
}

fn check_checkpoint_topic(name: &str, state: Result<Option<TopicState>, Error>, report: &mut Report) {
    let requirement = format!("topic {name}");
    let alter = |setting: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}")
    };
    match state {
        Err(error) => report.wrong(requirement, chain(&error), grant(name)),
        Ok(None) => report.ok(requirement, "does not exist yet; it is created with one partition, compacted"),
        Ok(Some(state)) if state.partitions != 1 => report.wrong(
            requirement,
            format!("has {} partitions; the checkpoint needs exactly one", state.partitions),
            "name another checkpoint.topic, or delete this one if nothing uses it",
        ),
        Ok(Some(state)) if state.cleanup_policy.as_deref().is_some_and(|policy| policy != "compact") => {
            report.wrong(
                requirement,
                format!(
                    "has cleanup.policy {}: checkpoints would be deleted with age",
                    state.cleanup_policy.as_deref().unwrap_or_default()
                ),
                alter("cleanup.policy=compact"),
            )
        }
        Ok(Some(_)) => report.ok(requirement, "one partition, compacted"),
    }
}

fn check_topics(
    settings: &Settings,
    brokers: usize,
    topics: BTreeMap<String, Result<Option<TopicState>, Error>>,
    report: &mut Report,
) {
    let mut missing = Vec::new();
    for (name, state) in topics {
        match state {
            Err(error) => report.wrong(format!("topic {name}"), chain(&error), grant(&name)),
            Ok(None) => missing.push(name),
            Ok(Some(state)) => check_topic(&name, &state, brokers, report),
        }
    }
    let shape = &settings.topics;
    if missing.is_empty() {
        return;
    }
    if shape.create {
        let replicas = match shape.replication_factor {
            -1 => "the brokers' default of replicas".to_owned(),
            1 => "1 replica".to_owned(),
            n => format!("{n} replicas"),
        };
        report.ok(
            "missing topics",
            format!(
                "will be created with {} partitions and {replicas}: {}",
                shape.partitions,
                list(&missing)
            ),
        );
        if usize::try_from(shape.replication_factor).is_ok_and(|wanted| wanted > brokers) {
            report.wrong(
                "topics.replication_factor",
                format!("is {}, but there are {brokers} brokers", shape.replication_factor),
                format!("topics.replication_factor = {brokers}"),
            );
        }
        return;
    }
    let commands: Vec<String> = missing
        .iter()
        .map(|name| format!("kafka-topics.sh --create --topic {name} --partitions {}", shape.partitions))
        .collect();
    report.wrong(
        "missing topics",
        format!("topics.create is false: {}", list(&missing)),
        commands.join("\n"),
    );
}

fn check_topic(name: &str, state: &TopicState, brokers: usize, report: &mut Report) {
    let requirement = format!("topic {name}");
    let TopicState { partitions, replication, min_insync_replicas, unclean_leader_election, .. } = state;
    let alter = |setting: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}")
    };
    match min_insync_replicas {
        Some(min) if min > replication => {
            return report.wrong(
                requirement,
                format!("min.insync.replicas is {min}, but it has {replication} replicas: no write is ever accepted"),
                alter(&format!("min.insync.replicas={}", (replication - 1).max(1))),
            );
        }
        Some(1) if *replication > 1 => report.warning(
            &requirement,
            "min.insync.replicas is 1: a record may be acknowledged by a broker that is then lost",
            alter("min.insync.replicas=2"),
        ),
        _ if *replication == 1 && brokers > 1 => report.warning(
            &requirement,
            "has one replica: what is acknowledged is lost with that broker's disk",
            "kafka-reassign-partitions.sh, with three replicas for each partition",
        ),
        Some(min) => {
            report.ok(&requirement, format!("{partitions} partitions, {replication} replicas, {min} in sync"))
        }
        None => report.ok(
            &requirement,
            format!("{partitions} partitions, {replication} replicas; min.insync.replicas may not be read"),
        ),
    }
    if *unclean_leader_election == Some(true) {
        report.warning(
            requirement,
            "unclean.leader.election.enable is true: acknowledged records may be lost when brokers fail",
            alter("unclean.leader.election.enable=false"),
        );
    }
}

fn grant(topic: &str) -> String {
    format!(
        "kafka-acls.sh --add --allow-principal User:… --operation Write --operation Describe --topic {topic}"
    )
}
