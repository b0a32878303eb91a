//! The profile's script: one mail per change, also when events come again, are invalid, wait, or meet a process that was
//! killed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Profile, sum};
use crate::run::{Scenario, until};

const USERS: usize = 10;

/// All of it.
pub async fn play(profile: &Profile, changes: usize) -> Result<()> {
    changed(profile).await?;
    invalid(profile).await?;
    replayed(profile).await?;
    behind(profile).await?;
    ended_and_killed(profile, changes).await
}

/// What there is when a person plays: some people and their addresses.
pub async fn entered(profile: &Profile) -> Result<()> {
    profile.stage.say("five people enter their profiles");
    for (id, name) in [("ada", "Ada"), ("ben", "Ben"), ("cleo", "Cleo"), ("dan", "Dan"), ("eva", "Eva")] {
        change(profile, id, name, Some(&format!("{id}@example.com"))).await?;
    }
    let counts = mailed(profile).await?;
    profile.stage.say(format!("  {} mails, one for each", counts.len()));
    Ok(())
}

async fn change(profile: &Profile, id: &str, name: &str, email: Option<&str>) -> Result<()> {
    until("the user service", async || {
        let answer = profile.change_request(id, email, name).send().await;
        Ok(answer.is_ok_and(|answer| answer.status().is_success()))
    })
    .await
}

async fn change_user(profile: &Profile, user: usize, email: Option<&str>) -> Result<()> {
    change(profile, &format!("user-{user}"), &format!("User {user}"), email).await
}

async fn metric(profile: &Profile, part: &str) -> Result<f64> {
    Ok(sum(&profile.metrics().await?, part))
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
            change_user(profile, user, Some(&format!("user{user}.{round}@example.com"))).await?;
        }
    }
    let counts = mailed(profile).await?;
    ensure!(counts.len() == 3 * USERS && counts.values().all(|count| *count == 1), "{counts:?}");
    profile.stage.say(format!("  {} mails, one for each", counts.len()));
    Ok(())
}

async fn invalid(profile: &Profile) -> Result<()> {
    profile.stage.say("the user service forgets the address once");
    change_user(profile, 0, None).await?;
    change_user(profile, 0, Some("user0@example.com")).await?;
    until("a dead letter", async || Ok(!profile.dead_letters.newest().is_empty())).await?;
    let reason = profile.dead_letters.newest().remove(0).reason;
    ensure!(reason.ends_with("version 1: email is missing"), "the dead letter says: {reason}");
    profile.stage.say(format!("  a dead letter: {reason}"));
    let counts = mailed(profile).await?;
    profile.stage.say(format!("  the next event of that user was not kept waiting: {} mails", counts.len()));
    Ok(())
}

async fn replayed(profile: &Profile) -> Result<()> {
    profile.stage.say("an operator replays the topic from its beginning");
    let before = profile.mailbox.mails()?.len();
    let (skipped, events) = (metric(profile, "\"seen_before\"").await?, before as f64);
    profile.operator_request("replay").send().await?.error_for_status()?;
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
    profile.operator_request("pause").send().await?.error_for_status()?;
    for user in 0..USERS {
        change_user(profile, user, Some("late@example.com")).await?;
    }
    let lag = "service_consumer_lag_records";
    until("its lag", async || Ok(metric(profile, lag).await? == USERS as f64)).await?;
    profile.stage.say(format!("  its lag is {USERS} records"));
    profile.operator_request("resume").send().await?.error_for_status()?;
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
            change_user(profile, number % USERS, Some(&format!("user{number}@example.com"))).await?;
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
                let status = profile.process("mailer")?.stop().await?.context("it had ended by itself")?;
                ensure!(status.success(), "SIGTERM ended it with {status}");
                profile.process("mailer")?.start()?;
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
