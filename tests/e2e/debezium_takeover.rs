//! From a real Debezium to Headwater in the middle of a load: the configuration is imported, the slot taken over, and
//! the topics that both wrote are judged as if one had. What comes twice lies in the range that was printed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::harness::cell::Cell;
use crate::harness::checker::Repeats;
use crate::harness::database::parse_lsn;
use crate::harness::debezium::{CONNECTOR, Debezium};
use crate::harness::decode::Decoder;
use crate::harness::evidence::{Cells, Change, Commit, Evidence, Identity, Record};
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::{BINARY, Config};
use crate::harness::kafka::{self, Raw};
use crate::harness::workload::{self, STEADY, Workload};
use crate::harness::{http, until};

/// One Connect at a time: it is larger than all the rest.
static ALONE: Mutex<()> = Mutex::new(());

/// How Debezium ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
}

/// What `take-over` printed.
#[derive(Debug)]
struct Printed {
    checkpoint: u64,
    transaction: u32,
    last_row: u64,
    wal_end: u64,
}

async fn in_the_middle_of_a_load(test: &mut Fixture, end: End) -> Result<()> {
    workload::create_tables(&test.database).await?;
    // Debezium spreads records without a key over the partitions, Headwater keeps their order in one.
    kafka::create_topic(&test.kafka.bootstrap, &test.topic("public.journal"), 1).await?;
    test.database.execute("create table beginning (id int primary key)").await?;
    test.database.execute("alter publication captured add table beginning").await?;
    test.do_not_fold(BEGINNING);
    let mut debezium = Debezium::start(&test.database, &test.kafka, test.prefix(), test.directory.path())?;
    debezium.streaming(&test.database).await?;
    begun(test, "beginning", &test.topic(BEGINNING)).await?;
    test.begin().await?;
    let load = Workload::start(&test.database, 41, STEADY);
    until(Duration::from_secs(60), "Debezium to store an offset", async || Ok(debezium.has_offset())).await?;
    load.commits(150).await?;

    let config = imported(test, &debezium)?;
    let offsets = debezium.offsets.display().to_string();
    let take_over = ["take-over", "--connector", CONNECTOR, "--offsets-file", &offsets];
    let refused = test.command(&take_over, &config)?;
    ensure!(refused.status.code() == Some(71), "a slot in use was taken over: {refused:?}");
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("is in use"), "{refused:?}");

    match end {
        End::Stopped => debezium.stop().await?,
        End::Killed => debezium.kill()?,
    }
    // The load goes on meanwhile.
    load.commits(50).await?;
    let printed = taken_over(test, &take_over, &config).await?;
    let mut headwater = test.start(config).await?;
    load.commits(300).await?;
    load.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    judge(test, &printed, end).await
}

/// A table for what is written until Debezium begins; nobody judges it.
const BEGINNING: &str = "public.beginning";

/// Debezium begins where the WAL was when it had started, which is after its slot is active: writes rows until one
/// comes.
async fn begun(test: &Fixture, table: &str, topic: &str) -> Result<()> {
    let mut canary = 1000;
    until(Duration::from_secs(60), "Debezium to begin", async || {
        canary += 1;
        test.database.execute(&format!("insert into {table} values ({canary})")).await?;
        Ok(!test.raw_topic(topic)?.is_empty())
    })
    .await
}

/// `import-debezium` from the files that Debezium runs with; everything in them has an equivalent.
fn imported(test: &Fixture, debezium: &Debezium) -> Result<Config> {
    let output = test.directory.path().join("imported.toml");
    let mut command = std::process::Command::new(BINARY);
    command.arg("import-debezium").arg(&debezium.connector).arg("--worker").arg(&debezium.worker);
    let outcome = command.arg("--output").arg(&output).output().context("run import-debezium")?;
    ensure!(outcome.status.success(), "import-debezium: {outcome:?}");
    let config = Config::read(&output)?;
    // Its own, so that no test reads another's.
    Ok(config.set("checkpoint.topic", format!("checkpoint.{}", test.prefix())))
}

/// Takes over as soon as Postgres has noticed that Debezium is gone.
async fn taken_over(test: &Fixture, take_over: &[&str], config: &Config) -> Result<Printed> {
    let active =
        format!("select active from pg_replication_slots where slot_name = '{}'", test.database.slot());
    until(Duration::from_secs(60), "the slot to be free", async || {
        Ok(test.database.value(&active).await?.as_deref() == Some("f"))
    })
    .await?;
    let outcome = test.command(take_over, config)?;
    ensure!(outcome.status.success(), "take-over: {outcome:?}");
    let text = String::from_utf8(outcome.stdout)?;
    println!("{text}");
    let between = |before: &str, after: &str| -> Result<&str> {
        let rest = text.split_once(before).with_context(|| format!("no '{before}' in:\n{text}"))?.1;
        Ok(rest.split_once(after).with_context(|| format!("no '{after}' in:\n{text}"))?.0)
    };
    Ok(Printed {
        checkpoint: parse_lsn(between("checkpoint  ", " ")?)?,
        transaction: between("(txId ", ")")?.parse()?,
        last_row: parse_lsn(between("up to source.lsn ", " ")?)?,
        wal_end: parse_lsn(between("at most those up to ", " ")?)?,
    })
}

/// The topics of both, as one run.
async fn judge(test: &mut Fixture, printed: &Printed, end: End) -> Result<()> {
    for name in workload::TABLES {
        let topic = test.topic(name);
        for part in ["key", "value"] {
            let response = http::get(&format!("{}/subjects/{topic}-{part}/versions", test.kafka.registry))?;
            let keyless = name.ends_with("journal") && part == "key";
            ensure!(
                keyless || response.body.trim() == "[1]",
                "{topic}-{part} got another schema: {}",
                response.body
            );
        }
    }
    let commits = test.database.commits().await?;
    let mut raw = test.raw_records()?;
    raw.retain(|record| record.topic != test.topic(BEGINNING));
    let joined = Joined::new(raw, &test.kafka.registry, &commits)?;
    joined.repeats_lie_in(printed, end, &commits)?;
    let Joined { raw, of_debezium, .. } = joined;
    let mut evidence = test.evidence_with(raw).await?;
    as_one_run(&mut evidence, &of_debezium)?;
    let report = test.judge(&evidence, Repeats::Replayed)?;
    ensure!(report.duplicates > 0 || end == End::Stopped, "a kill repeats what came after the last flush");
    Ok(())
}

/// Place of a record: topic, partition, offset.
type Place = (String, i32, i64);

/// All records, each with a `headwater.id`.
struct Joined {
    raw: Vec<Raw>,
    of_debezium: BTreeSet<Place>,
    /// Transactions that Debezium wrote at least a part of, with the positions of the rows it wrote.
    from_debezium: BTreeMap<u32, Vec<u64>>,
    /// Transactions that Headwater wrote.
    from_headwater: BTreeSet<u32>,
}

impl Joined {
    /// Debezium's records get the ids that Headwater would have given them: those of a transaction that came twice
    /// from Headwater's records, partition by partition; others by their order in the WAL.
    fn new(mut raw: Vec<Raw>, registry: &str, commits: &HashMap<u32, Commit>) -> Result<Joined> {
        let changes = decoded(&raw, registry)?;
        let mut ids: HashMap<(u32, String, i32), Vec<Vec<u8>>> = HashMap::new();
        let mut joined = Joined {
            raw: Vec::new(),
            of_debezium: BTreeSet::new(),
            from_debezium: BTreeMap::new(),
            from_headwater: BTreeSet::new(),
        };
        for (record, (xid, ..)) in raw.iter().zip(&changes) {
            if let Some((_, id)) = record.headers.iter().find(|(name, _)| name == "headwater.id") {
                joined.from_headwater.insert(*xid);
                ids.entry((*xid, record.topic.clone(), record.partition)).or_default().push(id.clone());
            }
        }
        let mut alone: BTreeMap<u32, Vec<(u64, u8, usize)>> = BTreeMap::new();
        let mut used: HashMap<(u32, String, i32), usize> = HashMap::new();
        for (index, (xid, lsn, rank)) in changes.iter().enumerate() {
            let record = &mut raw[index];
            if record.header("headwater.id").is_some() {
                continue;
            }
            joined.of_debezium.insert((record.topic.clone(), record.partition, record.offset));
            joined.from_debezium.entry(*xid).or_default().push(*lsn);
            if !joined.from_headwater.contains(xid) {
                alone.entry(*xid).or_default().push((*lsn, *rank, index));
                continue;
            }
            let home = (*xid, record.topic.clone(), record.partition);
            let next = used.entry(home.clone()).or_default();
            let id = ids.get(&home).and_then(|ids| ids.get(*next));
            let id = id.with_context(|| {
                format!("transaction {xid}: Debezium wrote more to {} than Headwater", home.1)
            })?;
            *next += 1;
            record.headers.push(("headwater.id".to_owned(), id.clone()));
        }
        for (xid, mut records) in alone {
            let commit = commits.get(&xid).with_context(|| format!("transaction {xid} is unknown"))?;
            records.sort_unstable();
            for (ordinal, (.., index)) in records.into_iter().enumerate() {
                let id = format!("{}/{ordinal}", commit.commit_lsn);
                raw[index].headers.push(("headwater.id".to_owned(), id.into_bytes()));
            }
        }
        joined.raw = raw;
        Ok(joined)
    }

    fn repeats_lie_in(&self, printed: &Printed, end: End, commits: &HashMap<u32, Commit>) -> Result<()> {
        let repeated: Vec<u32> =
            self.from_debezium.keys().filter(|xid| self.from_headwater.contains(xid)).copied().collect();
        println!("{printed:X?}: {} transactions came twice", repeated.len());
        ensure!(
            !self.from_debezium.is_empty() && !self.from_headwater.is_empty(),
            "one of them wrote nothing"
        );
        for xid in &self.from_headwater {
            ensure!(
                commits[xid].end_lsn > printed.checkpoint,
                "transaction {xid} was sent again from before the checkpoint"
            );
        }
        for xid in self.from_debezium.keys().filter(|xid| !repeated.contains(xid)) {
            ensure!(
                commits[xid].end_lsn <= printed.checkpoint,
                "transaction {xid} of Debezium was not sent again"
            );
        }
        if end == End::Killed {
            let beyond = repeated.iter().find(|xid| commits[xid].end_lsn > printed.wal_end);
            ensure!(beyond.is_none(), "transaction {beyond:?} was repeated from beyond the printed end");
            return Ok(());
        }
        ensure!(
            repeated.iter().all(|xid| *xid == printed.transaction),
            "{repeated:?} were repeated after a clean stop"
        );
        let rows = repeated.iter().flat_map(|xid| &self.from_debezium[xid]);
        ensure!(
            rows.copied().all(|lsn| lsn <= printed.last_row),
            "rows beyond the printed one were repeated"
        );
        Ok(())
    }
}

/// Transaction, row position, and place among records of one row (delete, tombstone, create) of each record.
fn decoded(raw: &[Raw], registry: &str) -> Result<Vec<(u32, u64, u8)>> {
    tokio::task::block_in_place(|| {
        let mut decoder = Decoder::new(registry);
        let mut found: Vec<(u32, u64, u8)> = Vec::new();
        for (index, record) in raw.iter().enumerate() {
            let Some(value) = &record.value else {
                // A tombstone follows its delete.
                let before = index.checked_sub(1).filter(|before| raw[*before].key == record.key);
                let Some(before) = before else {
                    bail!("{} {}: a tombstone after no delete", record.topic, record.offset)
                };
                found.push((found[before].0, found[before].1, 1));
                continue;
            };
            let change = decoder.decode(value)?.change()?;
            found.push((change.xid, change.lsn, if change.op == "d" { 0 } else { 2 }));
        }
        Ok(found)
    })
}

/// Compares what came twice, and takes the differences that are documented (docs/FORMATS.md) out of the evidence: the
/// clock in `ts_*`, `sequence`, and the fill values of `before`.
fn as_one_run(evidence: &mut Evidence, of_debezium: &BTreeSet<Place>) -> Result<()> {
    let identities: HashMap<String, Identity> =
        evidence.tables.iter().map(|(name, spec)| (name.clone(), spec.identity.clone())).collect();
    let theirs =
        |record: &Record| of_debezium.contains(&(record.topic.clone(), record.partition, record.offset));
    for record in &mut evidence.records {
        let from_debezium = theirs(record);
        let Some(change) = &mut record.change else { continue };
        without_fill_values(change, &identities[&change.relation])?;
        if from_debezium {
            let commit = evidence.commits.get(&change.xid).context("a transaction that nobody knows")?;
            without_clock(change, commit)?;
        }
    }
    let ours: HashMap<_, Record> = evidence
        .records
        .iter()
        .filter(|record| !theirs(record))
        .map(|record| (record.id, record.clone()))
        .collect();
    for record in &mut evidence.records {
        let Some(twin) = ours.get(&record.id).filter(|_| theirs(record)) else {
            continue;
        };
        ensure!(
            data(record) == data(twin),
            "came twice with other data: {:?} and {:?}",
            data(record),
            data(twin)
        );
        ensure!(record.key_bytes == twin.key_bytes, "the key of {:?} has other bytes", record.key);
        record.value_bytes.clone_from(&twin.value_bytes);
        record.headers.clone_from(&twin.headers);
        record.change.clone_from(&twin.change);
    }
    Ok(())
}

/// What a consumer keeps of a record.
fn data(record: &Record) -> impl PartialEq + std::fmt::Debug {
    let change = record.change.as_ref().map(|change| {
        (
            change.op.clone(),
            change.relation.clone(),
            change.lsn,
            change.xid,
            change.before.clone(),
            change.after.clone(),
        )
    });
    (record.topic.clone(), record.partition, record.key.clone(), change)
}

/// `source.ts_*` is the commit time in both; `ts_*` beside it is Debezium's clock.
fn without_clock(change: &mut Change, commit: &Commit) -> Result<()> {
    for time in change.times_micros.iter().step_by(2) {
        let millis = commit.unix_micros.div_euclid(1000) * 1000;
        ensure!(
            *time == commit.unix_micros || *time == millis,
            "source.ts is {time}, not {}",
            commit.unix_micros
        );
    }
    change.times_micros.fill(commit.unix_micros);
    change.sequence = format!("[\"{}\",\"{}\"]", commit.commit_lsn, change.lsn);
    Ok(())
}

/// Columns that an old row lacks have made-up values where they are NOT NULL, in both.
fn without_fill_values(change: &mut Change, identity: &Identity) -> Result<()> {
    let (Some(before), Identity::Columns(columns)) = (&mut change.before, identity) else { return Ok(()) };
    let absent = |cells: &mut Cells| -> Result<()> {
        for (name, cell) in cells.iter_mut().filter(|(name, _)| !columns.contains(name)) {
            let filled =
                *cell == Cell::Null || matches!(cell, Cell::Text(text) if text.is_empty() || text == "0");
            ensure!(filled, "before.{name} is {cell:?}, which no old row carried");
            *cell = Cell::Null;
        }
        Ok(())
    };
    absent(before)
}

/// An offset as Connect keeps it in its topic.
fn offset_of(prefix: &str, value: &str) -> (String, String) {
    (format!("[\"{CONNECTOR}\",{{\"server\":\"{prefix}\"}}]"), value.to_owned())
}

/// No Debezium is needed for what an offset in Connect's topic can say.
async fn offsets_are_checked(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, v text)", &["public.item"]).await?;
    let topic = format!("offsets.{}", test.prefix());
    kafka::create_topic(&test.kafka.bootstrap, &topic, 5).await?;
    let (bootstrap, prefix) = (test.kafka.bootstrap.clone(), test.prefix().to_owned());
    let stored = |value: &str| {
        let (key, value) = offset_of(&prefix, value);
        let other = r#"["billing",{"server":"billing"}]"#;
        kafka::produce(&bootstrap, &topic, &[(&key, &value), (other, "{}")])
    };
    let check = |test: &Fixture, config: Config, more: &[&str], code: i32, words: &str| -> Result<()> {
        let outcome = test.command(&[&["take-over", "--offsets-topic", &topic], more].concat(), &config)?;
        let text = [outcome.stdout, outcome.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        ensure!(outcome.status.code() == Some(code) && text.contains(words), "not {code} '{words}': {text}");
        Ok(())
    };
    let config = test.config();
    check(test, config.clone(), &[], 71, "there is none of any connector")?;
    stored(r#"{"lsn":1}"#)?;
    check(test, config.clone(), &["--connector", "nobody"], 71, "there are those of")?;
    check(test, config.clone(), &[], 31, "does not exist")?;
    let create = |plugin: &str| {
        format!("select pg_create_logical_replication_slot('{}', '{plugin}')", test.database.slot())
    };
    test.database.execute(&create("test_decoding")).await?;
    check(test, config.clone(), &[], 38, "test_decoding")?;
    let dropped = format!("select pg_drop_replication_slot('{}')", test.database.slot());
    test.database.execute(&dropped).await?;
    test.database.execute(&create("pgoutput")).await?;
    test.database.execute("insert into item values (0, 'delivered by the other one')").await?;
    check(test, config.clone(), &[], 32, "--adopt-slot")?;
    stored(r#"{"lsn":9000000000000,"lsn_commit":1}"#)?;
    check(test, config.clone(), &[], 34, "the server's WAL ends at")?;
    stored(r#"{"lsn":5,"snapshot":"INITIAL","snapshot_completed":false}"#)?;
    check(test, config.clone(), &[], 71, "initial snapshot")?;
    let elsewhere = test.database.url().replace(&format!("/{prefix}"), "/postgres");
    let position = test.database.lsn("select pg_current_wal_lsn()").await?;
    stored(&format!(r#"{{"lsn":{position},"lsn_commit":{position},"txId":7}}"#))?;
    check(test, config.clone().set("postgres.url", elsewhere), &[], 35, "belongs to the database")?;
    check(test, config.clone(), &["--dry-run"], 0, "would be stored")?;
    check(test, config.clone(), &[], 0, "is stored")?;
    check(test, config.clone(), &[], 0, "is stored")?;
    stored(&format!(r#"{{"lsn":{position},"lsn_commit":{},"txId":7}}"#, position - 8))?;
    check(test, config.clone(), &[], 71, "--replace-checkpoint")?;
    check(test, config.clone(), &["--replace-checkpoint"], 0, "is stored")?;
    // What was delivered is not sent again, and nothing after it is left out.
    test.begin().await?;
    test.database.execute("insert into item values (1, 'one')").await?;
    let mut headwater = test.start(config).await?;
    test.database.execute("insert into item values (2, 'two')").await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 2, "{} records instead of 2", report.records);
    Ok(())
}

/// Shards that Debezium's router brings together and Kafka's renames: Headwater goes on in the same topics, under the
/// same schemas, with the same bytes of each key in the same partition.
async fn routed(test: &mut Fixture) -> Result<()> {
    let tables = ["item_shard1", "item_shard2", "plain"];
    let ddl = tables.map(|table| format!("create table {table} (id int primary key, name text);"));
    test.capture(&ddl.concat(), &["public.item_shard1", "public.item_shard2", "public.plain"]).await?;
    let prefix = test.prefix().to_owned();
    let routers = format!(
        "transforms=shards,rename
transforms.shards.type=io.debezium.transforms.ByLogicalTableRouter
transforms.shards.topic.regex=(.*)_shard[0-9]
transforms.shards.topic.replacement=$1s
transforms.rename.type=org.apache.kafka.connect.transforms.RegexRouter
transforms.rename.regex={prefix}[.]public[.](.*)
transforms.rename.replacement={prefix}.routed.$1
"
    );
    let directory = test.directory.path().to_owned();
    let mut debezium = Debezium::start_with(&test.database, &test.kafka, &prefix, &directory, &routers)?;
    debezium.streaming(&test.database).await?;
    let topics = [format!("{prefix}.routed.items"), format!("{prefix}.routed.plain")];
    begun(test, "plain", &topics[1]).await?;
    for table in tables {
        let rows = "select g, 'x' from generate_series(1, 20) g";
        test.database.execute(&format!("insert into {table} {rows}")).await?;
        test.database.execute(&format!("delete from {table} where id = 20")).await?;
    }
    until(Duration::from_secs(60), "Debezium to write", async || {
        Ok(test.raw_topic(&topics[0])?.len() == 44 && test.raw_topic(&topics[1])?.len() > 22)
    })
    .await?;
    until(Duration::from_secs(60), "Debezium to store an offset", async || Ok(debezium.has_offset())).await?;
    let config = imported(test, &debezium)?;
    debezium.stop().await?;
    let offsets = debezium.offsets.display().to_string();
    let take_over = ["take-over", "--connector", CONNECTOR, "--offsets-file", &offsets];
    taken_over(test, &take_over, &config).await?;
    let mut headwater = test.start(config).await?;
    for table in tables {
        test.database
            .execute(&format!("update {table} set name = 'y'; delete from {table} where id = 19"))
            .await?;
    }
    test.settle().await?;
    headwater.stop().await?;

    let mut decoder = Decoder::new(&test.kafka.registry);
    for topic in &topics {
        for part in ["key", "value"] {
            let url = format!("{}/subjects/{topic}-{part}/versions", test.kafka.registry);
            let versions = http::get(&url)?.body;
            ensure!(versions.trim() == "[1]", "{topic}-{part} got another schema: {versions}");
        }
        // By the key as a consumer reads it: its bytes, its partitions, and who wrote it.
        type Met = (BTreeSet<Vec<u8>>, BTreeSet<i32>, BTreeSet<bool>);
        let mut keys: BTreeMap<String, Met> = BTreeMap::new();
        for record in test.raw_topic(topic)? {
            let key = decoder.json(record.key.as_deref())?.to_string();
            let (bytes, partitions, writers) = keys.entry(key).or_default();
            writers.insert(record.header("headwater.id").is_some());
            bytes.extend(record.key);
            partitions.insert(record.partition);
        }
        let shards = if topic.ends_with("items") { 2 } else { 1 };
        ensure!(shards == 1 || keys.len() == 40, "{topic} has {} keys", keys.len());
        for (key, (bytes, partitions, writers)) in &keys {
            ensure!(bytes.len() == 1 && partitions.len() == 1, "{key}: {bytes:?} in {partitions:?}");
            let both = shards == 2 && !key.contains("\"id\":20}");
            ensure!(!both || writers.len() == 2, "{key} is not of both");
            ensure!(
                shards == 1 || key.contains(&format!("{prefix}.public.item_shard")),
                "{key} has no table"
            );
        }
    }
    Ok(())
}

#[test]
fn routed_topics_are_taken_over() {
    let _alone = ALONE.lock();
    on_shared("takeover_routed", routed);
}

#[test]
fn what_an_offset_says_is_checked() {
    on_shared("debezium_offsets", offsets_are_checked);
}

fn alone(name: &str, end: End) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    on_shared(name, async |test| in_the_middle_of_a_load(test, end).await);
}

#[test]
fn after_a_clean_stop() {
    alone("debezium_stop", End::Stopped);
}

#[test]
fn after_a_kill() {
    alone("debezium_kill", End::Killed);
}
