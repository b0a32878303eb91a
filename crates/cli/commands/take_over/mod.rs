//! `headwater take-over`: the slot of a Debezium connector becomes Headwater's, at the offset that Debezium stored.
//!
//! In: the configuration that `import-debezium` wrote, and Connect's offset topic or file. Out: a checkpoint, from
//! which `headwater run` begins, and on standard output which changes may be repeated. Nothing is confirmed to the
//! server, and nothing of Debezium's is changed: it can go on as if nothing had been done.

mod java_map;
mod offset;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use headwater_kafka::{Admin, read_topic_to_end};
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::take_over::{TakeOverOptions, TakenOver};
use headwater_pipeline::{ExitCode, Halt, Settings};

use crate::Shared;
use java_map::Entry;
use offset::StoredOffset;

/// Where the offset is.
#[derive(Args)]
pub struct Arguments {
    /// The connector's name (for Debezium Server usually `kafka`). Needed if several have this topic prefix.
    #[arg(long, value_name = "NAME")]
    connector: Option<String>,
    /// The topic in which Connect keeps offsets, the worker's `offset.storage.topic`.
    #[arg(long, value_name = "TOPIC", default_value = "connect-offsets", conflicts_with = "offsets_file")]
    offsets_topic: String,
    /// The file of a standalone worker or of Debezium Server, `offset.storage.file.filename`.
    #[arg(long, value_name = "FILE")]
    offsets_file: Option<PathBuf>,
    /// Put the checkpoint in place of one that Headwater already has for this slot.
    #[arg(long)]
    replace_checkpoint: bool,
    /// Look and print, and store nothing.
    #[arg(long)]
    dry_run: bool,
}

/// An offset file holds one small entry per connector.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// For reading one partition of the offset topic.
const READ_MAX: Duration = Duration::from_secs(60);

/// Stores the checkpoint and prints what it means.
pub fn run(shared: &Shared, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = super::prepare(shared)?;
    let settings = config.settings;
    let prefix = &settings.topics.prefix;
    let (entries, place) = match &arguments.offsets_file {
        Some(path) => (read_file(path)?, path.display().to_string()),
        None => {
            (read_topic(&settings, &arguments.offsets_topic)?, format!("topic {}", arguments.offsets_topic))
        }
    };
    let found = match offset::find(entries, prefix, arguments.connector.as_deref()) {
        Ok(found) => found,
        Err(why) => bail!(Halt::new(
            ExitCode::TakeOverRefused,
            format!("{place}: {why}"),
            "topics.prefix must be the connector's, --connector its name, and --offsets-topic or --offsets-file the \
             worker's own (offset.storage.topic, offset.storage.file.filename)",
        )),
    };
    let options = TakeOverOptions { replace: arguments.replace_checkpoint, dry_run: arguments.dry_run };
    let taken = super::block_on(async {
        Ok(headwater_pipeline::take_over::take_over(&settings, found.handover, options).await?)
    })?;
    print!("{}", told(&settings, &found, &taken, arguments.dry_run));
    Ok(ExitCode::Success)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let name = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("read the offsets in {name}"))?.len();
    if size > FILE_BYTES_MAX {
        bail!("{name} has {size} bytes, too many for a file of offsets");
    }
    let bytes = std::fs::read(path).with_context(|| format!("read the offsets in {name}"))?;
    java_map::read(&bytes).map_err(|why| {
        let advice =
            "name the file that the worker calls offset.storage.file.filename, of a worker that is stopped";
        Halt::new(ExitCode::TakeOverRefused, format!("{name} is no file of Connect's offsets: {why}"), advice)
            .into()
    })
}

/// Every record of the topic; those of one key are in one partition, in order.
fn read_topic(settings: &Settings, topic: &str) -> anyhow::Result<Vec<Entry>> {
    let SinkSettings::Kafka { kafka, .. } = &settings.sink else {
        bail!("the configuration has no Kafka to read {topic} from; name a file with --offsets-file");
    };
    let doing = || format!("read Connect's offsets in the topic {topic}");
    let admin = Admin::new(kafka).with_context(doing)?;
    let Some(state) = admin.topic(topic).with_context(doing)? else {
        bail!(Halt::new(
            ExitCode::TakeOverRefused,
            format!("there is no topic {topic} on {}", kafka.bootstrap_servers),
            "name the worker's offset.storage.topic with --offsets-topic, or the file of a standalone worker with \
             --offsets-file",
        ));
    };
    let mut entries = Vec::new();
    for partition in 0..state.partitions {
        let records = read_topic_to_end(kafka, topic, partition, READ_MAX).with_context(doing)?;
        entries.extend(records.into_iter().map(|record| (record.key, record.value)));
    }
    Ok(entries)
}

/// What was done and which changes come again.
fn told(settings: &Settings, found: &StoredOffset, taken: &TakenOver, dry_run: bool) -> String {
    let StoredOffset { connector, handover, transaction } = found;
    let TakenOver { checkpoint, confirmed, wal_end } = taken;
    let transaction = transaction.map_or_else(String::new, |xid| format!(" (txId {xid})"));
    let committed = handover.committed.map_or_else(|| "none".to_owned(), |lsn| lsn.to_string());
    let verb = if dry_run { "would be stored" } else { "is stored" };
    let next = if dry_run { "Without --dry-run it is stored; then" } else { "Now" };
    format!(
        "connector   {connector}: last commit {committed}, last row {}{transaction}\n\
         slot        {}: confirmed {confirmed}, inactive\n\
         checkpoint  {checkpoint} {verb}: every transaction that ends after it is sent, and none is left out\n\
         \n\
         What comes twice, first from Debezium and then from Headwater:\n\
         - if the connector was stopped in an orderly way: rows of the transaction{transaction} that it was in, those up \
         to source.lsn {} ({})\n\
         - if it was killed: also rows of transactions that ended after {checkpoint} ({}) and were written since its last \
         offset flush, at most those up to {wal_end} ({}), where the WAL ends now\n\
         \n\
         {next} start `headwater run` with the same configuration. Do not start the connector again.\n",
        handover.seen, settings.slot, handover.seen, handover.seen.0, checkpoint.0, wal_end.0,
    )
}
