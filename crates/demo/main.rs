//! Services that use Headwater as a team would, and the scenarios that play with them: `make demo SCENARIO=…`.
//!
//! Nothing here knows a crate of Headwater: services have tokio-postgres, rdkafka and axum. The folders are scenarios;
//! `run/` is the director, which starts and breaks what belongs to a scenario, and `page/` what their pages share.

mod consume;
mod database;
mod ledger;
mod page;
mod profile;
mod run;
mod saga;
mod service;
mod shop;
mod watch;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Reference services and their scenarios.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The scenario of an inventory and its copy.
    Shop(run::Settings),
    /// The scenario of an order over three services that is undone when a step fails.
    Saga(saga::Settings),
    /// The scenario of an order that is its events.
    Ledger(run::Settings),
    /// The scenario of a user service and an e-mail service.
    Profile(run::Settings),
    /// The product service of the shop.
    Product(Service),
    /// The order service of the shop.
    Orders(Service),
    /// The order service of the saga.
    SagaOrders {
        #[command(flatten)]
        service: saga::Service,
        /// How long an order may be pending.
        #[arg(long)]
        timeout_ms: i32,
    },
    /// The stock service of the saga.
    SagaStock(saga::Service),
    /// The payment service of the saga.
    SagaPayments(saga::Service),
    /// The user service of the profile.
    Users(Service),
    /// The e-mail service of the profile.
    Mailer(profile::mailer::Settings),
    /// The order service of the ledger.
    LedgerOrders(Service),
    /// The view of the ledger's orders.
    LedgerProjection(ledger::projection::Settings),
}

/// What every service is called with.
#[derive(Args)]
struct Service {
    /// host:port of its API.
    #[arg(long)]
    listen: SocketAddr,
    /// Its own database.
    #[arg(long)]
    database_url: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // reqwest takes the process's TLS provider even for plain HTTP; one may be set already
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Shop(settings) => shop::run(&settings).await,
        Command::Saga(settings) => saga::run(&settings).await,
        Command::Ledger(settings) => ledger::run(&settings).await,
        Command::Profile(settings) => profile::run(&settings).await,
        Command::Users(service) => profile::users::run(service.listen, &service.database_url).await,
        Command::Mailer(settings) => profile::mailer::run(&settings).await,
        Command::SagaOrders { service, timeout_ms } => saga::orders::run(&service, timeout_ms).await,
        Command::SagaStock(service) => saga::stock::run(&service).await,
        Command::SagaPayments(service) => saga::payments::run(&service).await,
        Command::LedgerOrders(service) => ledger::orders::run(service.listen, &service.database_url).await,
        Command::LedgerProjection(settings) => ledger::projection::run(&settings).await,
        Command::Product(service) => shop::product::run(service.listen, &service.database_url).await,
        Command::Orders(service) => shop::orders::run(service.listen, &service.database_url).await,
    }
}
