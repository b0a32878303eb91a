//! The command line: one function per subcommand, one place where errors are printed and become exit codes.
//!
//! In: arguments, a configuration file, the environment. Out: an exit code of [`headwater_pipeline::ExitCode`], and on
//! standard error one sentence that says what is wrong and what to do about it.

mod apply_http;
mod apply_text;
mod commands;
mod config;
mod http;
mod snapshot_text;
mod telemetry;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use headwater_pg::ErrorKind;
use headwater_pipeline::{ExitCode as Code, Halt};

use commands::chain;
use config::ConfigError;

/// For the whole process, librdkafka included: its allocations for every record are most of what a record costs.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Follows a Postgres replication slot and writes every committed change to Kafka.
#[derive(Parser)]
#[command(name = "headwater", version, long_version = LONG_VERSION.as_str(), max_term_width = 110)]
struct CommandLine {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand understands.
#[derive(Args)]
struct Shared {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        env = "HEADWATER_CONFIG",
        default_value = "headwater.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
    /// Sets one key, over the environment and the file: `--set topics.prefix=shop`. May be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What to log: `info`, `debug`, or by module, `headwater_pg=trace,info`.
    #[arg(long, global = true, env = "HEADWATER_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Do the job: follow the slot, write to the sink, until told to stop.
    Run(commands::run::Arguments),
    /// Keep tables of another database equal to topics, exactly once; run SQL for outbox events.
    Apply(commands::apply::Arguments),
    /// Connect to everything and say what is fine, what is not, and what mends it.
    Check(commands::check::Arguments),
    /// Create publication, topics and slot, after showing what it will run.
    Init(commands::init::Arguments),
    /// Print changes from now on as lines of JSON, without touching the configured slot.
    Tail(commands::tail::Arguments),
    /// Show slot, lag and counts of a running instance.
    Status(commands::status::Arguments),
    /// Copy tables while a running instance streams: start, pause, resume, cancel, status.
    Snapshot(commands::snapshot::Arguments),
    /// List, retry, replay and clean up events of outbox tables with a status.
    Outbox(commands::outbox::Arguments),
    /// List, show, replay and drop what was set aside because it could not be delivered.
    Dlq(commands::dlq::Arguments),
    /// Wait until everything up to a position of the WAL is in Kafka.
    Wait(commands::wait::Arguments),
    /// Write the configuration that does what a Debezium connector does, and say what becomes of each of its keys.
    ImportDebezium(commands::import_debezium::Arguments),
    /// Take over the slot of a stopped Debezium connector at the offset that it stored.
    TakeOver(commands::take_over::Arguments),
    /// Show the Avro schemas of tables, and what a change would do to them before it is made.
    Schema(commands::schema::Arguments),
    /// Print the reference of all settings, docs/CONFIG.md.
    #[command(hide = true)]
    ConfigReference,
}

fn main() -> ExitCode {
    abort_on_panic();
    let CommandLine { shared, command } = CommandLine::parse();
    match run(&shared, command) {
        Ok(code) => ExitCode::from(code.number()),
        Err(error) => {
            // A reader that went away (`headwater tail | head`) is no failure of ours.
            if is_broken_pipe(&error) {
                return ExitCode::from(Code::Success.number());
            }
            let (code, text) = explain(&error);
            eprintln!("headwater: {text}");
            ExitCode::from(code.number())
        }
    }
}

/// A panic is a broken invariant: nothing may go on beside it, in no thread. Not by `panic = "abort"` in the profile,
/// because tests are built without it, and every dependency would be compiled twice.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

fn run(shared: &Shared, command: Command) -> anyhow::Result<Code> {
    match command {
        Command::Run(arguments) => commands::run::run(shared, &arguments),
        Command::Apply(arguments) => commands::apply::run(shared, &arguments),
        Command::Check(arguments) => commands::check::run(shared, &arguments),
        Command::Init(arguments) => commands::init::run(shared, &arguments),
        Command::Tail(arguments) => commands::tail::run(shared, &arguments),
        Command::Status(arguments) => commands::status::run(shared, &arguments),
        Command::Snapshot(arguments) => commands::snapshot::run(shared, &arguments),
        Command::Outbox(arguments) => commands::outbox::run(shared, &arguments),
        Command::Dlq(arguments) => commands::dlq::run(shared, &arguments),
        Command::Wait(arguments) => commands::wait::run(shared, &arguments),
        Command::ImportDebezium(arguments) => commands::import_debezium::run(shared, &arguments),
        Command::TakeOver(arguments) => commands::take_over::run(shared, &arguments),
        Command::Schema(arguments) => commands::schema::run(shared, &arguments),
        Command::ConfigReference => commands::config_reference::run(),
    }
}

/// The exit code of an error and the text to print for it: what happened, then what to do.
fn explain(error: &anyhow::Error) -> (Code, String) {
    if let Some(halt) = error.downcast_ref::<Halt>() {
        return (halt.code, halt.to_string());
    }
    (error.chain().find_map(code_of_cause).unwrap_or(Code::Unexpected), chain(error.as_ref()))
}

fn code_of_cause(cause: &(dyn Error + 'static)) -> Option<Code> {
    if cause.is::<ConfigError>() {
        return Some(Code::Configuration);
    }
    if let Some(error) = cause.downcast_ref::<headwater_pg::Error>() {
        let rights = error.kind() == ErrorKind::Authentication || error.sqlstate() == Some("42501");
        return Some(if rights { Code::PostgresRights } else { Code::PostgresError });
    }
    cause.is::<headwater_kafka::Error>().then_some(Code::KafkaRefused)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// What `--version` says: also the library that speaks to Kafka, since its version matters in reports.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\nlibrdkafka {}\n{} {}",
        env!("CARGO_PKG_VERSION"),
        headwater_kafka::librdkafka_version(),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
});
