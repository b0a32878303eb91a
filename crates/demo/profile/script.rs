//! The profile's script: one mail per change, also when events come again, are invalid, wait, or meet a process that was
//! killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use serde_json::json;

use super::Profile;
use crate::run::{Process, until};

const USERS: usize = 10;

/// All of it.
pub async fn play(profile: &Profile, changes: usize) -> Result<()> {
    changed(profile).await?;
    invalid(profile).await?;
    replayed(profile).await?;
    behind(profile).await?;
    ended_and_killed(profile, changes).await
}

async fn change(profile: &Profile, user: usize, email: Option<&str>) -> Result<()> {
    let url = format!("{}/users/user-{user}", profile.users_url);
    let body = json!({ "email": email, "name": format!("User {user}") });
    until("the user service", async || {
        let answer = profile.stage.http.put(&url).json(&body).send().await;
        Ok(answer.is_ok_and(|answer| answer.status().is_success()))
    })
    .await
}

fn mailer(profile: &Profile) -> Result<&Process> {
    profile.processes.iter().find(|process| process.name == "mailer").context("the mailer")
}

/// The sum over the labels of a metric whose line contains `part`.
async fn metric(profile: &Profile, part: &str) -> Result<f64> {
    let url = format!("{}/metrics", profile.mailer_url);
    let text = profile.stage.http.get(url).send().await?.error_for_status()?.text().await?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(part));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// How often each valid event was mailed, by the reference in the mail.
async fn references(profile: &Profile) -> Result<BTreeMap<String, usize>> {
    let client = profile.users.client().await?;
    let valid = "SELECT id::text FROM headwater.outbox WHERE payload ? 'email'";
    let mut counts: BTreeMap<String, usize> =
        client.query(valid, &[]).await?.iter().map(|row| (row.get(0), 0)).collect();
    for mail in profile.mailbox.mails()? {
        let reference = mail.body.lines().find_map(|line| line.strip_prefix("Reference: "));
        let count = counts.get_mut(reference.context("a mail without a reference")?);
        *count.context("a mail about an event that nobody wrote")? += 1;
    }
    Ok(counts)
}

/// Every valid event has its mail, and all mails are noted as sent.
async fn mailed(profile: &Profile) -> Result<BTreeMap<String, usize>> {
    until("a mail for each valid event", async || {
        let waiting = profile.mails.number("SELECT count(*) FROM mail WHERE sent_at IS NULL").await?;
        Ok(waiting == 0 && references(profile).await?.values().all(|count| *count > 0))
    })
    .await?;
    references(profile).await
}

async fn changed(profile: &Profile) -> Result<()> {
    profile.stage.say("ten users change their profiles, three times each");
    for round in 0..3 {
        for user in 0..USERS {
            change(profile, user, Some(&format!("user{user}.{round}@example.com"))).await?;
        }
    }
    let counts = mailed(profile).await?;
    ensure!(counts.len() == 3 * USERS && counts.values().all(|count| *count == 1), "{counts:?}");
    profile.stage.say(format!("  {} mails, one for each", counts.len()));
    Ok(())
}

async fn invalid(profile: &Profile) -> Result<()> {
    profile.stage.say("the user service forgets the address once");
    change(profile, 0, None).await?;
    change(profile, 0, Some("user0@example.com")).await?;
    let topic = format!("{}.dead", profile.topic);
    let bootstrap = profile.stage.servers.bootstrap.clone();
    let reason = tokio::task::spawn_blocking(move || dead_letter(&bootstrap, &topic)).await??;
    ensure!(reason.ends_with("version 1: email is missing"), "the dead letter says: {reason}");
    profile.stage.say(format!("  a dead letter: {reason}"));
    let counts = mailed(profile).await?;
    profile.stage.say(format!("  the next event of that user was not kept waiting: {} mails", counts.len()));
    Ok(())
}

/// The reason of the first dead letter.
fn dead_letter(bootstrap: &str, topic: &str) -> Result<String> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("{topic}-reader"))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    // a poll that gave nothing may have served the group
    let begun = Instant::now();
    let message = loop {
        match consumer.poll(Duration::from_secs(1)) {
            Some(message) => break message?,
            None => ensure!(begun.elapsed() < Duration::from_secs(120), "no dead letter came"),
        }
    };
    let headers = message.headers().context("a dead letter without headers")?;
    let reason = headers.iter().find(|header| header.key == "dead_letter.reason");
    let reason = reason.and_then(|header| header.value).context("a dead letter without a reason")?;
    Ok(String::from_utf8_lossy(reason).into_owned())
}

async fn replayed(profile: &Profile) -> Result<()> {
    profile.stage.say("an operator replays the topic from its beginning");
    let before = profile.mailbox.mails()?.len();
    let (skipped, events) = (metric(profile, "\"seen_before\"").await?, before as f64);
    let url = format!("{}/replay", profile.mailer_url);
    profile.stage.http.post(url).send().await?.error_for_status()?;
    until("all events to come again", async || {
        Ok(metric(profile, "\"seen_before\"").await? >= skipped + events)
    })
    .await?;
    let after = mailed(profile).await?.values().sum::<usize>();
    ensure!(before == after, "{} mails more", after - before);
    profile.stage.say(format!("  {events} events were skipped, and no mail was sent"));
    Ok(())
}

async fn behind(profile: &Profile) -> Result<()> {
    profile.stage.say("the e-mail service is paused");
    let post = async |what: &str| {
        let url = format!("{}/{what}", profile.mailer_url);
        profile.stage.http.post(url).send().await?.error_for_status()
    };
    post("pause").await?;
    for user in 0..USERS {
        change(profile, user, Some("late@example.com")).await?;
    }
    let lag = "service_consumer_lag_records";
    until("its lag", async || Ok(metric(profile, lag).await? == USERS as f64)).await?;
    profile.stage.say(format!("  its lag is {USERS} records"));
    post("resume").await?;
    until("its lag to go", async || Ok(metric(profile, lag).await? == 0.0)).await?;
    mailed(profile).await?;
    profile.stage.say("  resumed: no lag, all mails are sent");
    Ok(())
}

async fn ended_and_killed(profile: &Profile, changes: usize) -> Result<()> {
    profile.stage.say(format!("{changes} changes, and SIGTERM for the e-mail service again and again"));
    let before = mailed(profile).await?.values().sum::<usize>();
    let load = async || {
        for number in 0..changes {
            change(profile, number % USERS, Some(&format!("user{number}@example.com"))).await?;
        }
        anyhow::Ok(())
    };
    let mut ends = 0;
    let loading = load();
    tokio::pin!(loading);
    loop {
        tokio::select! {
            done = &mut loading => break done?,
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(300..1200))) => {
                let status = mailer(profile)?.stop().await?.context("it had ended by itself")?;
                ensure!(status.success(), "SIGTERM ended it with {status}");
                mailer(profile)?.start()?;
                ends += 1;
            }
        }
    }
    let counts = mailed(profile).await?;
    let mails = counts.values().sum::<usize>() - before;
    ensure!(mails == changes, "{mails} mails for {changes} changes");
    profile
        .stage
        .say(format!("  ended {ends} times, each time with status 0; {mails} mails, one for each change"));

    profile.stage.say(format!("{changes} changes more, and kill -9 for all three processes"));
    let loading = load();
    tokio::pin!(loading);
    loop {
        tokio::select! {
            done = &mut loading => break done?,
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(500..2500))) => {
                let process = &profile.processes[fastrand::usize(..profile.processes.len())];
                process.kill();
                process.start()?;
            }
        }
    }
    let counts = mailed(profile).await?;
    let twice = counts.values().filter(|count| **count > 1).count();
    profile.stage.say(format!(
        "  every change has its mail; {twice} have two, since the mail server had taken one when we were killed"
    ));
    Ok(())
}
