//! Consumers answer: rows become PROCESSED, or are sent again and in the end DEAD, of which people are told. Answers
//! come twice, late, in any order, and for events that nobody wrote. The oracles are psql's view of the rows, a stock
//! consumer's view of the topics and a real mail server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::kafka::{self, Raw};
use crate::harness::mail::{MailServer, certificate};
use crate::harness::{servers, until};
use crate::outbox_status::{count, prepare, put, until_count};

/// With answers, soon sent again.
pub fn config(test: &Fixture) -> Config {
    crate::outbox_status::config(test)
        .set("feedback.topic", format!("feedback.{}", test.prefix()))
        .set("feedback.group", test.prefix())
        .set("feedback.backoff", "200ms")
        .set("feedback.max_attempts", 3)
}

struct Said<'a> {
    id: &'a str,
    status: &'a str,
    consumer: &'a str,
    attempt: i32,
}

fn answer(test: &Fixture, said: &[Said<'_>]) -> Result<()> {
    let bodies: Vec<(String, String)> = said
        .iter()
        .map(|said| {
            let body = serde_json::json!({
                "event_id": said.id, "status": said.status, "reason": "no stock", "consumer": said.consumer,
                "attempt": said.attempt, "at": "2026-01-01T00:00:00Z",
            });
            (said.id.to_owned(), body.to_string())
        })
        .collect();
    let records: Vec<(&str, &str)> = bodies.iter().map(|(id, body)| (id.as_str(), body.as_str())).collect();
    tokio::task::block_in_place(|| {
        kafka::produce(&test.kafka.bootstrap, &format!("feedback.{}", test.prefix()), &records)
    })
}

/// The ids of all rows.
pub async fn ids(test: &Fixture, order: &str) -> Result<Vec<String>> {
    let rows = test.database.rows(&format!("select id from headwater.outbox order by {order}")).await?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

fn events(test: &Fixture) -> Result<Vec<Raw>> {
    test.raw_topic(&format!("outbox.{}.order", test.prefix()))
}

/// In the order in which they were put.
pub const BY_NUMBER: &str = "(payload->>'n')::int";

/// Duplicated, late, out of order, unknown, unreadable.
async fn answers(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("answers that can't be used");
    let all = toml::Table::from_iter([
        ("types".to_owned(), "OrderPlaced".into()),
        ("processed_when".to_owned(), "all".into()),
        ("consumers".to_owned(), toml::Value::Array(vec!["stock".into(), "billing".into()])),
    ]);
    let mut headwater = test.spawn(config(test).push("event_type", all))?;
    headwater.streaming().await?;
    put(test, 1, 100).await?;
    until_count(test, "SENT", 100).await?;
    let ids = ids(test, BY_NUMBER).await?;
    let say = |id, status, consumer| Said { id, status, consumer, attempt: 1 };
    let mut said = Vec::new();
    for id in &ids[..50] {
        // A success stands: what its consumer says later of the same attempt is of no consequence.
        said.extend([say(id, "SUCCESS", "stock"), say(id, "SUCCESS", "stock"), say(id, "FAILED", "stock")]);
    }
    answer(test, &said)?;
    let noted = |outcome: &'static str, count: f64| {
        let headwater = &headwater;
        async move {
            headwater.metric_until("headwater_outbox_answers_total", &[outcome], |seen| seen == count).await
        }
    };
    noted("noted", 50.0).await?;
    noted("ignored", 100.0).await?;
    ensure!(count(test, "SENT").await? == 100, "one of two consumers is not all");
    let mut said: Vec<_> = ids[..50].iter().rev().map(|id| say(id, "SUCCESS", "billing")).collect();
    said.push(say("0b8f3b1e-8c5a-4f0e-9a55-0a8d1c0e4a11", "SUCCESS", "stock"));
    said.push(say("'; drop table headwater.outbox; --", "FAILED", "stock"));
    answer(test, &said)?;
    tokio::task::block_in_place(|| {
        let topic = format!("feedback.{}", test.prefix());
        kafka::produce(&test.kafka.bootstrap, &topic, &[("x", "not json"), ("y", "{}")])
    })?;
    until_count(test, "PROCESSED", 50).await?;
    noted("unknown", 2.0).await?;
    noted("unreadable", 2.0).await?;
    let letters = test.raw_topic(&format!("feedback.{}.dead", test.prefix()))?;
    ensure!(letters.len() == 4, "{} dead letters", letters.len());
    for letter in &letters {
        letter.header("headwater.dead_letter.reason").context("a letter without its reason")?;
    }
    // Everything once more, from the beginning, as another instance with empty hands would read it.
    headwater.stop().await?;
    let before =
        test.database.rows("select id, status, processed_at from headwater.outbox order by id").await?;
    test.database.execute("truncate headwater.outbox_feedback").await?;
    let mut headwater = test.spawn(config(test).push("event_type", both_of()))?;
    headwater.streaming().await?;
    headwater.metric_until("headwater_outbox_answers_total", &["ignored"], |seen| seen == 200.0).await?;
    let after =
        test.database.rows("select id, status, processed_at from headwater.outbox order by id").await?;
    ensure!(before == after, "answers that came again changed something");
    ensure!(events(test)?.len() == 100, "something was sent again");
    headwater.stop().await
}

fn both_of() -> toml::Table {
    toml::Table::from_iter([
        ("types".to_owned(), "Order*".into()),
        ("processed_when".to_owned(), "all".into()),
        ("consumers".to_owned(), toml::Value::Array(vec!["stock".into(), "billing".into()])),
    ])
}

/// FAILED, and sent again: the same id, the number of the attempt, and where it was written first.
async fn sent_again(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    let mut headwater = test.spawn(config(test))?;
    headwater.streaming().await?;
    put(test, 1, 2).await?;
    until_count(test, "SENT", 2).await?;
    let ids = ids(test, BY_NUMBER).await?;
    let lsn =
        test.database.value(&format!("select lsn from headwater.outbox where id = '{}'", ids[0])).await?;
    let say = |status, attempt| Said { id: &ids[0], status, consumer: "stock", attempt };
    answer(test, &[say("FAILED", 1), say("FAILED", 1)])?;
    until(Duration::from_secs(60), "the second sending", async || Ok(events(test)?.len() == 3)).await?;
    let again = events(test)?.pop().expect("three events");
    ensure!(again.header("id").as_deref() == Some(ids[0].as_str()), "another id: {:?}", again.headers);
    ensure!(again.header("headwater.attempt").as_deref() == Some("2"), "headers {:?}", again.headers);
    ensure!(again.header("headwater.origin") == lsn, "headers {:?}, first written at {lsn:?}", again.headers);
    ensure!(again.header("tenant").as_deref() == Some("acme"), "what the service wrote is not all there");
    until_count(test, "SENT", 2).await?;
    // Of the first attempt, and late.
    answer(test, &[say("FAILED", 1)])?;
    headwater.metric_until("headwater_outbox_answers_total", &["ignored"], |seen| seen == 2.0).await?;
    ensure!(count(test, "SENT").await? == 2, "a late answer changed the next attempt");
    answer(test, &[say("SUCCESS", 2)])?;
    until_count(test, "PROCESSED", 1).await?;
    let rows = test.database.value("select count(*) from headwater.outbox").await?;
    ensure!(rows.as_deref() == Some("2"), "{rows:?} rows");
    headwater.stop().await
}

/// A consumer that always fails: DEAD after three attempts, and one mail for all of them.
async fn always_fails(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("DEAD");
    test.expect_complaint("telling people");
    let port = servers::free_port();
    let config = config(test)
        .set("notify.interval", "1s")
        .set("mail.host", "127.0.0.1")
        .set("mail.port", i64::from(port))
        .set("mail.tls", "none")
        .set("mail.from", "Headwater <headwater@example.com>")
        .set("mail.to", "team@example.com");
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    put(test, 1, 20).await?;
    until_count(test, "SENT", 20).await?;
    let ids = ids(test, BY_NUMBER).await?;
    for attempt in 1..=3 {
        let sent = 20 * attempt as usize;
        until(Duration::from_secs(60), &format!("attempt {attempt}"), async || {
            Ok(events(test)?.len() == sent)
        })
        .await?;
        until_count(test, "SENT", 20).await?;
        let said: Vec<_> =
            ids.iter().map(|id| Said { id, status: "FAILED", consumer: "stock", attempt }).collect();
        answer(test, &said)?;
    }
    until_count(test, "DEAD", 20).await?;
    // The mail server is away, and comes.
    headwater.metric_until("headwater_outbox_notifications_total", &["failed"], |seen| seen >= 1.0).await?;
    let server = MailServer::start(port, &[]).await?;
    until(Duration::from_secs(90), "a mail", async || Ok(!server.mails()?.is_empty())).await?;
    until(Duration::from_secs(30), "rows that say they were told of", async || {
        let sql = "select count(*) from headwater.outbox where notified_at is not null";
        Ok(test.database.value(sql).await?.as_deref() == Some("20"))
    })
    .await?;
    headwater.stop().await?;
    let mails = server.mails()?;
    ensure!(mails.len() == 1, "{} mails", mails.len());
    let body = mails[0]["body"].as_str().unwrap_or_default();
    ensure!(
        mails[0]["to"][0] == "team@example.com"
            && mails[0]["subject"].as_str().is_some_and(|s| s.contains("20"))
    );
    ensure!(
        ids.iter().all(|id| body.contains(id.as_str())) && body.contains("no stock"),
        "the mail says {body}"
    );
    Ok(())
}

/// Takes one request, and answers that all is well.
async fn webhook() -> Result<(String, tokio::task::JoinHandle<Result<String>>)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    let called = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        // The body is the end of it: one JSON object.
        while !request.ends_with(b"}") {
            let count = stream.read(&mut buffer).await?;
            ensure!(count > 0, "the request ended early");
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await?;
        Ok(String::from_utf8(request)?)
    });
    Ok((url, called))
}

/// What people do about rows; a mail server that insists on TLS and a login; waiting for a position.
async fn commands(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("DEAD");
    let (port, directory) = (servers::free_port(), test.directory.path().to_owned());
    let (certificate, key) = certificate(&directory, "mail")?;
    let server = MailServer::start(port, &[&certificate, &key, "headwater", "secret"]).await?;
    std::fs::write(directory.join("password"), "secret\n")?;
    let (webhook, called) = webhook().await?;
    let config = config(test)
        .set("feedback.max_attempts", 1)
        .set("notify.interval", "100ms")
        .set("notify.webhook", webhook)
        .set("mail.host", "localhost")
        .set("mail.port", i64::from(port))
        .set("mail.ca_file", certificate)
        .set("mail.username", "headwater")
        .set("mail.password_file", directory.join("password").display().to_string())
        .set("mail.from", "headwater@example.com")
        .set("mail.to", "team@example.com");
    let mut headwater = test.spawn(config.clone())?;
    headwater.streaming().await?;
    put(test, 1, 3).await?;
    let lsn = test.database.value("select pg_current_wal_lsn()").await?.context("no position")?;
    let instance = headwater.address();
    let waited = test.command(&["wait", "--lsn", &lsn, "--instance", &instance], &config)?;
    ensure!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stderr));
    ensure!(events(test)?.len() == 3, "it was waited for what is not there");
    let far =
        test.command(&["wait", "--lsn", "FFFFFFFF/0", "--timeout", "1", "--instance", &instance], &config)?;
    ensure!(!far.status.success(), "a position that never comes has come");
    until_count(test, "SENT", 3).await?;
    let ids = ids(test, BY_NUMBER).await?;
    answer(test, &[Said { id: &ids[0], status: "FAILED", consumer: "stock", attempt: 1 }])?;
    until_count(test, "DEAD", 1).await?;
    until(Duration::from_secs(60), "a mail", async || Ok(!server.mails()?.is_empty())).await?;
    let mail = server.mails()?.remove(0);
    ensure!(mail["encrypted"] == true && mail["login"] == "headwater", "{mail}");
    let call = called.await??;
    let body: serde_json::Value = serde_json::from_str(call.split_once("\r\n\r\n").context("no body")?.1)?;
    ensure!(
        call.starts_with("POST /hook ") && body["count"] == 1 && body["events"][0]["id"] == ids[0].as_str(),
        "{call}"
    );
    let output = |arguments: &[&str]| -> Result<String> {
        let output = test.command(arguments, &config)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let listed: serde_json::Value =
        serde_json::from_str(&output(&["outbox", "ls", "--status", "DEAD", "--json"])?)?;
    ensure!(
        listed.as_array().is_some_and(|rows| rows.len() == 1) && listed[0]["id"] == ids[0].as_str(),
        "{listed}"
    );
    ensure!(output(&["outbox", "show", &ids[0]])?.contains("no stock"));
    ensure!(output(&["outbox", "stats"])?.contains("DEAD"));
    output(&["outbox", "cancel", &ids[1]])?;
    ensure!(count(test, "CANCELLED").await? == 1);
    output(&["outbox", "retry", "--status", "DEAD"])?;
    until(Duration::from_secs(60), "the retried event", async || Ok(events(test)?.len() == 4)).await?;
    answer(test, &[Said { id: &ids[0], status: "SUCCESS", consumer: "stock", attempt: 2 }])?;
    until_count(test, "PROCESSED", 1).await?;
    output(&["outbox", "replay", "--from", "2020-01-01", "--to", "2100-01-01"])?;
    until(Duration::from_secs(60), "all events once more", async || Ok(events(test)?.len() == 7)).await?;
    until_count(test, "SENT", 3).await?;
    test.database.execute("select headwater.outbox_put('order', 'o', 'T', '{}')").await?;
    until_count(test, "SENT", 4).await?;
    headwater.stop().await
}

/// Nobody answers; and the events of an aggregate wait for the one that fails.
async fn silence_and_order(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.database.execute("select headwater.outbox_block_aggregates(true)").await?;
    let config = config(test).set("feedback.answer_timeout", "4s").set("feedback.backoff", "3s");
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    put(test, 1, 1).await?;
    until_count(test, "FAILED", 1).await?;
    put(test, 2, 4).await?;
    ensure!(count(test, "BLOCKED").await? == 3, "later events of the aggregate do not wait");
    until(Duration::from_secs(60), "the second sending", async || Ok(events(test)?.len() == 2)).await?;
    let first = ids(test, BY_NUMBER).await?.remove(0);
    answer(test, &[Said { id: &first, status: "SUCCESS", consumer: "stock", attempt: 2 }])?;
    let numbers = || -> Result<Vec<i64>> {
        let number = |event: &Raw| {
            serde_json::from_slice::<serde_json::Value>(event.value.as_deref()?).ok()?["n"].as_i64()
        };
        let mut numbers: Vec<_> = events(test)?.iter().filter_map(number).collect();
        // How often the first was sent depends on how fast this machine answers.
        numbers.dedup();
        Ok(numbers)
    };
    until(Duration::from_secs(60), "the others", async || Ok(numbers()?.len() >= 4)).await?;
    let numbers = numbers()?;
    ensure!(numbers[..4] == [1, 2, 3, 4], "order {numbers:?}");
    headwater.stop().await
}

#[test]
fn answers_in_any_order_and_number() {
    on_shared("outbox_answers", answers);
}

#[test]
fn failed_events_are_sent_again() {
    on_shared("outbox_again", sent_again);
}

#[test]
fn always_failing_is_dead_with_one_mail() {
    on_shared("outbox_dead", always_fails);
}

#[test]
fn commands_and_a_mail_server_with_tls() {
    on_shared("outbox_commands", commands);
}

#[test]
fn silence_counts_and_aggregates_wait() {
    on_shared("outbox_silence", silence_and_order);
}
