//! The profile's script: one mail per change, also when events come again, are invalid, wait, or meet a process that was
//! killed. A mail that is sent twice is one whose sender was killed before it noted it: those are counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use serde_json::json;

use super::Profile;
use crate::database::Database;
use crate::run::{PATIENCE, Process, Record, until, until_within};

const USERS: usize = 10;

/// All of it.
pub async fn play(profile: &Profile, changes: usize) -> Result<()> {
    changed(profile).await?;
    anything(profile).await?;
    no_mailbox(profile).await?;
    replayed(profile).await?;
    behind(profile).await?;
    in_hand(profile).await?;
    killed_while_sending(profile).await?;
    ended(profile, changes).await?;
    killed(profile, changes).await
}

/// What there is when a person plays: some people, and their mails.
pub async fn entered(profile: &Profile) -> Result<()> {
    const PEOPLE: [(&str, &str); 5] =
        [("ada", "Ada"), ("ben", "Ben"), ("cleo", "Cleo"), ("dan", "Dan"), ("eva", "Eva")];
    profile.stage.say("five people enter their profiles");
    for (id, name) in PEOPLE {
        let request = profile.change_request(id, Some(&format!("{id}@example.com")), name);
        request.send().await?.error_for_status()?;
    }
    until("a mail to each", async || {
        let sent = "SELECT count(*) FROM mail WHERE sent_at IS NOT NULL";
        Ok(profile.mails.number(sent).await? == PEOPLE.len() as i64)
    })
    .await?;
    profile.stage.say("  each has one mail");
    Ok(())
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
    let valid = "SELECT id::text FROM headwater.outbox WHERE payload->>'email' LIKE 'user%@example.com'";
    let mut counts: BTreeMap<String, usize> =
        client.query(valid, &[]).await?.iter().map(|row| (row.get(0), 0)).collect();
    for mail in profile.mailbox.mails()? {
        if mail.to.iter().any(|address| address.starts_with("slow-")) {
            continue;
        }
        let reference = mail.body.lines().find_map(|line| line.strip_prefix("Reference: "));
        let count = counts.get_mut(reference.context("a mail without a reference")?);
        *count.context("a mail about an event that nobody wrote")? += 1;
    }
    Ok(counts)
}

/// Every valid event has its mail, and all mails are noted as sent.
async fn mailed(profile: &Profile) -> Result<BTreeMap<String, usize>> {
    // one after the other, on a machine that may be busy
    let events = profile.users.number("SELECT count(*) FROM headwater.outbox").await?;
    let patience = PATIENCE + Duration::from_millis(100) * events.try_into()?;
    until_within(patience, "a mail for each valid event", async || {
        let waiting = "SELECT count(*) FROM mail WHERE sent_at IS NULL AND refused IS NULL";
        let waiting = profile.mails.number(waiting).await?;
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

/// Records that nobody should write: what they are, and what their dead letters say.
const BROKEN: [(&str, &str); 8] = [
    ("", "version 1: id is missing, email is missing, name is missing, version is missing"),
    ("?", "the payload is no JSON"),
    ("[]", "version 1: the payload is no object"),
    (r#"{"id": "user-1", "name": "A", "version": 99}"#, "version 1: email is missing"),
    (r#"{"id": "user-1", "email": "nowhere", "name": "A", "version": 99}"#, "version 1: email is no address"),
    (
        r#"{"id": "user-1", "email": "user@example.com", "name": "A", "version": 9223372036854775808}"#,
        "version 1: version has another type",
    ),
    (
        r#"{"id": "user-1", "email": "user@example.com", "name": "\u0000", "version": 99}"#,
        "it can't be stored: SQLSTATE 22021",
    ),
    ("no id", "there is no header id"),
];

async fn anything(profile: &Profile) -> Result<()> {
    profile.stage.say("the user service forgets the address once, and somebody writes what is no event");
    change(profile, 0, None).await?;
    change(profile, 0, Some("user0@example.com")).await?;
    for (payload, _) in BROKEN {
        let headers = [("id", "by-hand"), ("eventType", "ProfileUpdated")];
        let record = Record {
            topic: &profile.topic,
            partition: None,
            key: "user-1",
            headers: if payload == "no id" { &[] } else { &headers },
            payload: Some(if payload.is_empty() { b"{}" } else { payload.as_bytes() }),
        };
        profile.stage.produce(&[record]).await?;
    }
    // an older event, as a relay that crashed could send it
    let old = br#"{"id": "user-1", "email": "user1.old@example.com", "name": "A", "version": 1}"#;
    let headers = [("id", "by-hand-old"), ("eventType", "ProfileUpdated")];
    let record = Record {
        topic: &profile.topic,
        partition: None,
        key: "user-1",
        headers: &headers,
        payload: Some(old),
    };
    let before = metric(profile, "\"seen_before\"").await?;
    profile.stage.produce(&[record]).await?;
    until("the older event to be passed over", async || {
        Ok(metric(profile, "\"seen_before\"").await? == before + 1.0)
    })
    .await?;

    let mut expected: Vec<_> = BROKEN.iter().map(|(_, reason)| (*reason).to_owned()).collect();
    expected.push("version 1: email is missing".to_owned());
    let (topic, count) = (format!("{}.dead", profile.topic), expected.len());
    let bootstrap = profile.stage.servers.bootstrap.clone();
    let mut reasons = tokio::task::spawn_blocking(move || dead_letters(&bootstrap, &topic, count)).await??;
    let subject = format!("{}-payload ", profile.topic);
    for reason in &mut reasons {
        *reason = reason.trim_start_matches(&subject).to_owned();
    }
    reasons.sort();
    expected.sort();
    ensure!(reasons == expected, "the dead letters say {reasons:?}");
    profile.stage.say(format!("  {count} dead letters, each with its reason:"));
    reasons.dedup();
    for reason in reasons {
        profile.stage.say(format!("    {reason}"));
    }
    let counts = mailed(profile).await?;
    ensure!(counts.values().all(|count| *count == 1), "{counts:?}");
    profile.stage.say(format!(
        "  an older event was passed over; the next event was not kept waiting: {} mails, one for each",
        counts.len()
    ));
    Ok(())
}

/// The reasons of the first dead letters.
fn dead_letters(bootstrap: &str, topic: &str, count: usize) -> Result<Vec<String>> {
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", format!("{topic}-reader"))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    let begun = Instant::now();
    let mut reasons = Vec::new();
    while reasons.len() < count {
        ensure!(begun.elapsed() < Duration::from_secs(120), "only these dead letters came: {reasons:?}");
        // a poll that gave nothing may have served the group
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        let headers = message.headers().context("a dead letter without headers")?;
        let reason = headers.iter().find(|header| header.key == "dead_letter.reason");
        let reason = reason.and_then(|header| header.value).context("a dead letter without a reason")?;
        reasons.push(String::from_utf8_lossy(reason).into_owned());
    }
    Ok(reasons)
}

/// An address that the mail server refuses, and that was right when it was written.
async fn no_mailbox(profile: &Profile) -> Result<()> {
    profile.stage.say("a user has an address whose mailbox is gone");
    change(profile, 2, Some("nobody@example.com")).await?;
    change(profile, 3, Some("user3@example.com")).await?;
    mailed(profile).await?;
    until("the refusal", async || {
        let refused = "SELECT count(*) FROM mail WHERE refused LIKE '%no such mailbox%'";
        Ok(profile.mails.number(refused).await? == 1)
    })
    .await?;
    profile.stage.say("  it is noted, and the mails behind it are sent");
    Ok(())
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
        change(profile, user, Some("user.late@example.com")).await?;
    }
    let lag = "service_consumer_lag_records";
    // what is left of the replay waits as well
    until("its lag", async || Ok(metric(profile, lag).await? >= USERS as f64)).await?;
    profile.stage.say(format!("  its lag is {} records", metric(profile, lag).await?));
    post("resume").await?;
    until("its lag to go", async || Ok(metric(profile, lag).await? == 0.0)).await?;
    mailed(profile).await?;
    profile.stage.say("  resumed: no lag, all mails are sent");
    Ok(())
}

/// The e-mail service loses its session, is stopped, and is killed while it is at work on an event, which a lock makes last.
async fn in_hand(profile: &Profile) -> Result<()> {
    profile
        .stage
        .say("the e-mail service loses its database, is stopped, and is killed in the midst of an event");
    let service = mailer(profile)?;
    let other = Database::new(&profile.stage.own_url(&profile.stage.named("mailer"))?)?;
    let taken = async || {
        until("the event to be in hand", async || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'seen'::regclass";
            Ok(profile.mails.number(waiting).await? == 1)
        })
        .await
    };
    for what in ["cut", "stopped", "killed"] {
        other.execute("BEGIN; LOCK TABLE seen IN EXCLUSIVE MODE").await?;
        change(profile, 4, Some("user4@example.com")).await?;
        taken().await?;
        match what {
            "cut" => {
                profile.stage.cut_sessions("mailer").await?;
                taken().await?;
                other.execute("ROLLBACK").await?;
            }
            "stopped" => {
                let released = async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    other.execute("ROLLBACK").await
                };
                let (status, released) = tokio::join!(service.stop(), released);
                released?;
                let status = status?.context("it had ended by itself")?;
                ensure!(status.success(), "SIGTERM ended it with {status}");
            }
            _ => {
                // longer than the interval of commits: an offset that was stored too early would be committed now
                tokio::time::sleep(Duration::from_millis(2500)).await;
                service.kill();
                other.execute("ROLLBACK").await?;
            }
        }
        service.start()?;
        let counts = mailed(profile).await?;
        ensure!(counts.values().all(|count| *count == 1), "{counts:?}");
    }
    profile.stage.say("  each time the event has its one mail, and SIGTERM ended with status 0");
    Ok(())
}

/// The e-mail service is killed while the mail server has its mail: before it is taken, and before that is said.
async fn killed_while_sending(profile: &Profile) -> Result<()> {
    profile.stage.say("the e-mail service is killed while the mail server is at work on a mail");
    for (address, expected) in [("slow-to-take@example.com", 1), ("slow-to-say@example.com", 2)] {
        let mails = || -> Result<Vec<String>> {
            let mut mails = profile.mailbox.mails()?;
            mails.retain(|mail| mail.to == [address]);
            Ok(mails.into_iter().map(|mail| mail.message_id).collect())
        };
        change(profile, 5, Some(address)).await?;
        until("a mail that is being sent", async || {
            // the row is locked as long as it is
            let free = format!(
                "SELECT count(*) FROM (SELECT FROM mail WHERE address = '{address}' FOR UPDATE SKIP LOCKED) free"
            );
            let all = format!("SELECT count(*) FROM mail WHERE address = '{address}'");
            let sending = profile.mails.number(&all).await? > profile.mails.number(&free).await?;
            Ok(sending && mails()?.len() + 1 == expected)
        })
        .await?;
        mailer(profile)?.kill();
        mailer(profile)?.start()?;
        let open = "SELECT count(*) FROM mail WHERE sent_at IS NULL AND refused IS NULL";
        until("the mail to be noted", async || Ok(profile.mails.number(open).await? == 0)).await?;
        let mails = mails()?;
        ensure!(mails.len() == expected, "a mail to {address} was sent {} times", mails.len());
        ensure!(mails.iter().all(|id| *id == mails[0]), "the same mail has two Message-IDs");
    }
    profile.stage.say("  before the mail was taken: it is sent once");
    profile
        .stage
        .say("  before the mail server has said that it was taken: it is sent twice, with one Message-ID");
    Ok(())
}

/// So many changes of all users.
async fn load(profile: &Profile, changes: usize) -> Result<()> {
    for number in 0..changes {
        change(profile, number % USERS, Some(&format!("user{number}@example.com"))).await?;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..80))).await;
    }
    Ok(())
}

async fn ended(profile: &Profile, changes: usize) -> Result<()> {
    profile.stage.say(format!("{changes} changes, and SIGTERM for the e-mail service again and again"));
    let before = mailed(profile).await?.values().sum::<usize>();
    let (mut ends, mut loaded) = (0, false);
    let loading = load(profile, changes);
    tokio::pin!(loading);
    while !loaded || ends < 3 {
        tokio::select! {
            done = &mut loading, if !loaded => {
                done?;
                loaded = true;
            }
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
    ensure!(
        mails == changes && counts.values().all(|count| *count == 1),
        "{mails} mails for {changes} changes"
    );
    profile
        .stage
        .say(format!("  ended {ends} times, each time with status 0; {mails} mails, one for each change"));
    Ok(())
}

async fn killed(profile: &Profile, changes: usize) -> Result<()> {
    profile.stage.say(format!(
        "{changes} changes more, kill -9 for all three processes, and sessions of the user service's PostgreSQL that are cut"
    ));
    let mut unnoted = BTreeMap::<String, usize>::new();
    let mut broken = BTreeMap::<&str, u32>::new();
    let (mut loaded, mut next) = (false, Vec::new());
    let loading = load(profile, changes);
    tokio::pin!(loading);
    // until everything was broken at least once
    while !loaded || !next.is_empty() || broken.is_empty() {
        tokio::select! {
            done = &mut loading, if !loaded => {
                done?;
                loaded = true;
            }
            // not more often: the group waits for the session of an instance that was killed to time out
            () = tokio::time::sleep(Duration::from_millis(fastrand::u64(1000..4000))) => {
                if next.is_empty() {
                    next = (0..=profile.processes.len()).collect();
                    fastrand::shuffle(&mut next);
                }
                let which = next.pop().context("just filled")?;
                let name = match profile.processes.get(which) {
                    Some(process) => {
                        kill(profile, process, &mut unnoted).await?;
                        process.name
                    }
                    None => {
                        profile.stage.cut_sessions("users").await?;
                        "database users"
                    }
                };
                *broken.entry(name).or_default() += 1;
            }
        }
    }
    let counts = mailed(profile).await?;
    for (id, count) in &counts {
        let again = unnoted.get(id).copied().unwrap_or(0);
        ensure!(*count == 1 + again, "event {id} has {count} mails, of which {again} were not noted");
    }
    let mut references = BTreeMap::<String, String>::new();
    for mail in profile.mailbox.mails()? {
        if mail.to.iter().any(|address| address.starts_with("slow-")) {
            continue;
        }
        let before = references.entry(mail.message_id.clone()).or_insert_with(|| mail.body.clone());
        ensure!(*before == mail.body, "two mails have one Message-ID");
    }
    ensure!(references.len() == counts.len(), "{} Message-IDs for {} events", references.len(), counts.len());
    let twice: usize = unnoted.values().sum();
    profile.stage.say(format!("  killed, or sessions cut: {broken:?}").replace(['{', '}', '"'], ""));
    profile.stage.say(format!("  {} changes in this run, and each has its mail", counts.len()));
    profile.stage.say(format!(
        "  {twice} have two, with one Message-ID: the e-mail service was killed when it was sent and before it was noted"
    ));
    Ok(())
}

/// kill -9 and a new start. Of the e-mail service: which mails were sent and not noted, and so will be sent again.
async fn kill(profile: &Profile, process: &Process, unnoted: &mut BTreeMap<String, usize>) -> Result<()> {
    process.kill();
    if process.name == "mailer" {
        until("the sessions of the e-mail service to end", async || {
            let sessions = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name <> 'director'";
            Ok(profile.mails.number(sessions).await? == 0)
        })
        .await?;
        profile.mailbox.come_to_rest().await?;
        let counts = references(profile).await?;
        let open = "SELECT event_id FROM mail WHERE sent_at IS NULL AND refused IS NULL";
        for row in profile.mails.client().await?.query(open, &[]).await? {
            let id: String = row.get(0);
            let (sent, before) =
                (counts.get(&id).copied().unwrap_or(0), unnoted.entry(id.clone()).or_default());
            ensure!(sent == *before || sent == *before + 1, "event {id} has {sent} mails and none is noted");
            *before = sent;
        }
    }
    process.start()
}
