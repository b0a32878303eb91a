//! People are told: few mails for many failures, each event once, also when an address is refused or the server can't be
//! trusted. The oracle is a mail server that isn't ours.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::mail::{MailServer, certificate};
use crate::harness::{kafka, servers, until};
use crate::outbox_feedback::{BY_NUMBER, config, ids};
use crate::outbox_status::{prepare, put, until_count};

fn mailing(test: &Fixture, port: u16) -> Config {
    let to = toml::Value::Array(vec!["team@example.com".into(), "nobody@example.com".into()]);
    config(test)
        .set("feedback.max_attempts", 1)
        .set("notify.interval", "3s")
        .set("mail.host", "localhost")
        .set("mail.port", i64::from(port))
        .set("mail.tls", "none")
        .set("mail.from", "Headwater <headwater@example.com>")
        .set("mail.to", to)
}

fn fail(test: &Fixture, ids: &[String]) -> Result<()> {
    let answers: Vec<(&str, String)> = ids
        .iter()
        .map(|id| {
            (id.as_str(), format!(r#"{{"event_id": "{id}", "status": "FAILED", "consumer": "stock"}}"#))
        })
        .collect();
    let answers: Vec<(&str, &str)> = answers.iter().map(|(id, body)| (*id, body.as_str())).collect();
    tokio::task::block_in_place(|| {
        kafka::produce(&test.kafka.bootstrap, &format!("feedback.{}", test.prefix()), &answers)
    })
}

async fn until_told(test: &Fixture, rows: usize) -> Result<()> {
    until(Duration::from_secs(90), "rows that say they were told of", async || {
        let sql = "select count(*) from headwater.outbox where notified_at is not null";
        Ok(test.database.value(sql).await? == Some(rows.to_string()))
    })
    .await
}

/// A thousand failures, in several bursts; one of the two recipients does not exist.
async fn thousand(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("DEAD");
    test.expect_complaint("a recipient was not told");
    let port = servers::free_port();
    let server = MailServer::start(port, &[]).await?;
    let mut headwater = test.spawn(mailing(test, port))?;
    headwater.streaming().await?;
    put(test, 1, 1000).await?;
    until_count(test, "SENT", 1000).await?;
    let ids = ids(test, BY_NUMBER).await?;
    for ids in ids.chunks(100) {
        fail(test, ids)?;
    }
    until_count(test, "DEAD", 1000).await?;
    until_told(test, 1000).await?;
    headwater.stop().await?;
    let mails = server.mails()?;
    let mut told = 0;
    for mail in &mails {
        ensure!(mail["to"] == serde_json::json!(["team@example.com"]), "{mail}");
        let subject = mail["subject"].as_str().context("no subject")?;
        told += subject.split(' ').next().context("no count")?.parse::<usize>()?;
    }
    // Slow answers may take longer than the interval; each event is told of once all the same.
    ensure!(told == 1000 && mails.len() <= 5, "{told} events in {} mails", mails.len());
    let refused = headwater.log_lines(&["a recipient was not told"]).len();
    ensure!(refused == mails.len(), "{refused} refusals were told of, of {} mails", mails.len());
    Ok(())
}

/// A server that nobody vouches for, then one without the right password, then the right one.
async fn trust(test: &mut Fixture) -> Result<()> {
    prepare(test).await?;
    test.expect_complaint("DEAD");
    test.expect_complaint("telling people");
    let port = servers::free_port();
    let (authority, key) = certificate(test.directory.path(), "right")?;
    let (other, _) = certificate(test.directory.path(), "other")?;
    let server = MailServer::start(port, &[&authority, &key, "headwater", "secret"]).await?;
    let plain = mailing(test, port)
        .set("mail.tls", "starttls")
        .set("mail.to", "team@example.com")
        .set("mail.username", "headwater");
    let mut configs: BTreeMap<u8, (Config, Option<&str>)> = BTreeMap::new();
    configs.insert(0, (plain.clone().set("mail.ca_file", other), Some("certificate")));
    configs.insert(1, (plain.clone().set("mail.ca_file", authority.clone()), Some("535")));
    configs.insert(2, (plain.set("mail.ca_file", authority), None));
    for (step, (config, complaint)) in configs {
        let password = if step == 2 { "secret" } else { "not-the-one" };
        let mut headwater = test.spawn_with(config, &[("HEADWATER_MAIL__PASSWORD", password)])?;
        headwater.streaming().await?;
        if step == 0 {
            put(test, 1, 1).await?;
            until_count(test, "SENT", 1).await?;
            fail(test, &ids(test, BY_NUMBER).await?)?;
            until_count(test, "DEAD", 1).await?;
        }
        match complaint {
            Some(word) => {
                headwater
                    .metric_until("headwater_outbox_notifications_total", &["failed"], |seen| seen >= 1.0)
                    .await?;
                let line = headwater.log_line(&["telling people"]).await?;
                ensure!(line.to_lowercase().contains(word) && !line.contains("not-the-one"), "{line}");
                ensure!(server.mails()?.is_empty(), "a mail went to a server that is not trusted");
            }
            None => until_told(test, 1).await?,
        }
        headwater.stop().await?;
    }
    let mails = server.mails()?;
    ensure!(
        mails.len() == 1 && mails[0]["encrypted"] == true && mails[0]["login"] == "headwater",
        "{mails:?}"
    );
    Ok(())
}

#[test]
fn a_thousand_failures_are_few_mails() {
    on_shared("outbox_thousand", thousand);
}

#[test]
fn only_a_server_that_is_trusted_is_told() {
    on_shared("outbox_trust", trust);
}
