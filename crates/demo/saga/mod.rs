//! The saga: an order over three services with a database each. They speak through their outboxes only, and what was
//! done is undone backward when a step fails, refuses or does not answer.

pub mod orders;
pub mod payments;
pub mod stock;

mod audit;
mod lease;
mod page;
mod script;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use clap::Args;
use reqwest::RequestBuilder;
use serde_json::Value as Json;

use crate::consume::INBOX;
use crate::database::Database;
use crate::run::{
    self, Playing, Process, Relay, Scenario, Servers, Stage, argument, perform, prometheus_config,
    relay_config,
};
use script::Wish;

const OUTBOX: &str = include_str!("../../../sql/outbox.sql");

/// How long an order may be pending.
const TIMEOUT_MS: &str = "6000";

/// What `saga` is called with.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    shared: run::Settings,
    /// How many orders; otherwise 60, and 1,000 in the long form.
    #[arg(long)]
    orders: Option<usize>,
}

/// What each of the three services is called with.
#[derive(Args, Clone)]
pub struct Service {
    /// host:port of its API.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Its own database.
    #[arg(long)]
    pub database_url: String,
    /// Kafka's host:port.
    #[arg(long)]
    pub bootstrap: String,
    /// Begins the names of topics and groups.
    #[arg(long)]
    pub name: String,
}

impl Service {
    /// The topic of an aggregate type's events.
    pub fn topic(&self, aggregate: &str) -> String {
        format!("{}.{aggregate}", self.name)
    }

    /// The consumer group of a service.
    pub fn group(&self, service: &str) -> String {
        format!("{}-{service}", self.name)
    }
}

/// The three services with their relays, and where to look.
pub struct Saga {
    stage: Stage,
    orders: Database,
    stock: Database,
    payments: Database,
    orders_url: String,
    processes: Vec<Process>,
    /// How many random orders.
    count: usize,
}

/// Starts the services, plays the script and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    let run::Settings { servers, playing } = &settings.shared;
    let mut saga = Saga::start(servers).await?;
    saga.count = settings.orders.unwrap_or(if playing.long { 1000 } else { 60 });
    perform(saga, playing).await
}

impl Scenario for Saga {
    const PAGE: &'static str = include_str!("page.html");

    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    async fn state(&self, of: Option<&str>) -> Result<Json> {
        page::state(self, of).await
    }

    fn buttons() -> Router<Arc<Saga>> {
        page::buttons()
    }

    async fn play(&self, playing: &Playing) -> Result<()> {
        if playing.page_only { script::opened(self).await } else { script::play(self, self.count).await }
    }
}

impl Saga {
    async fn start(servers: &Servers) -> Result<Saga> {
        let stage = Stage::new(servers)?;
        stage.say("three services, each with its database and its relay");
        let orders = stage.create_database("orders", &[OUTBOX, INBOX, include_str!("orders.sql")]).await?;
        let stock = stage.create_database("stock", &[OUTBOX, INBOX, include_str!("stock.sql")]).await?;
        let payments =
            stage.create_database("payments", &[OUTBOX, INBOX, include_str!("payments.sql")]).await?;
        let topics = ["order", "stock", "payment"].map(|aggregate| format!("{}.{aggregate}", servers.name));
        stage.make_topics(&topics.each_ref().map(String::as_str)).await?;
        let mut processes = Vec::new();
        let mut addresses = Vec::new();
        for (name, relay, aggregate, what) in [
            ("saga-orders", "relay-orders", "order", "begins orders, confirms them, gives them up"),
            ("saga-stock", "relay-stock", "stock", "reserves stock, gives it back"),
            ("saga-payments", "relay-payments", "payment", "takes money, returns it"),
        ] {
            let database = name.strip_prefix("saga-").unwrap_or(name);
            let url = stage.database_url(&stage.named(database))?;
            let (listen, relay_listen) = (stage.address(), stage.address());
            let config = relay_toml(&stage, &url, &stage.named(database), &relay_listen, aggregate);
            let config = stage.write(&format!("{relay}.toml"), &config)?;
            let mut arguments = vec![
                name,
                "--listen",
                &listen,
                "--database-url",
                &url,
                "--bootstrap",
                &servers.bootstrap,
                "--name",
                &servers.name,
            ];
            if name == "saga-orders" {
                arguments.extend(["--timeout-ms", TIMEOUT_MS]);
            }
            processes.push(stage.service(name, what, &arguments)?);
            processes.push(stage.headwater(
                relay,
                "headwater run: its outbox to Kafka",
                &["run", "-c", argument(&config)?],
            )?);
            let process = processes.last().expect("just pushed");
            process.start()?;
            stage.until_answers(&format!("http://{relay_listen}/readyz"), &processes).await?;
            addresses.extend([(name, listen), (relay, relay_listen)]);
        }
        let jobs: Vec<_> = addresses.iter().map(|(name, address)| (*name, address.as_str())).collect();
        stage.write("prometheus.yml", &prometheus_config(&jobs))?;
        for process in &processes {
            process.start()?;
        }
        for (_, address) in &addresses {
            stage.until_answers(&format!("http://{address}/healthz"), &processes).await?;
        }
        let orders_url = format!("http://{}", addresses[0].1);
        Ok(Saga { stage, orders, stock, payments, orders_url, processes, count: 0 })
    }

    /// An order, as a customer sends it.
    fn order_request(&self, id: &str, wish: &Wish<'_>) -> RequestBuilder {
        self.stage.http.put(format!("{}/orders/{id}", self.orders_url)).json(wish)
    }
}

fn relay_toml(stage: &Stage, database_url: &str, slot: &str, listen: &str, aggregate: &str) -> String {
    let sections = format!(
        r#"[[outbox]]
table = "headwater.outbox"
topic = "{}.${{aggregatetype}}"
aggregatetypes = "{aggregate}"
payload = "raw"
headers_column = "headers"
status = true
"#,
        stage.servers.name
    );
    relay_config(
        stage,
        &Relay { database_url, slot, publication: "headwater_outbox", listen, sections: &sections },
    )
}
