//! The ledger: an order that is nothing but its events. The table of events is the outbox as well.

pub mod order;
pub mod orders;
pub mod projection;

mod script;
mod store;

use anyhow::Result;
use clap::Args;

use crate::database::Database;
use crate::run::{Process, Relay, Servers, Stage, argument, prometheus_config, relay_config};

/// What `ledger` is called with.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    servers: Servers,
    /// 5,000 commands instead of 400.
    #[arg(long)]
    long: bool,
}

/// What runs, and where to look.
pub struct Ledger {
    stage: Stage,
    orders: Database,
    projection: Database,
    orders_url: String,
    processes: Vec<Process>,
    /// Runs only when the projection is made anew.
    rebuilding: Process,
}

/// Starts it, plays the script and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    let ledger = Ledger::start(&settings.servers).await?;
    let result = ledger.stage.play(script::play(&ledger, if settings.long { 5000 } else { 400 })).await;
    ledger.stage.end(ledger.processes.iter().chain([&ledger.rebuilding]), result).await
}

impl Ledger {
    async fn start(servers: &Servers) -> Result<Ledger> {
        let stage = Stage::new(servers)?;
        stage.say("an order service whose only table is events, its relay, and a projection");
        let orders = stage.create_database("ledger", &[include_str!("ledger.sql")]).await?;
        let projection = stage.create_database("projection", &[include_str!("projection.sql")]).await?;
        let [listen, relay_listen, view_listen] = [stage.address(), stage.address(), stage.address()];
        let database_url = stage.database_url(&stage.named("ledger"))?;
        let projection_url = stage.database_url(&stage.named("projection"))?;
        let config = stage.write("relay.toml", &relay_toml(&stage, &database_url, &relay_listen))?;
        let topic = format!("{}.order", servers.name);
        stage.make_topics(&[&topic]).await?;
        let jobs =
            [("ledger-orders", &*listen), ("relay", &relay_listen), ("ledger-projection", &view_listen)];
        stage.write("prometheus.yml", &prometheus_config(&jobs))?;
        let project = [
            "ledger-projection",
            "--listen",
            &view_listen,
            "--database-url",
            &projection_url,
            "--bootstrap",
            &servers.bootstrap,
            "--topic",
            &topic,
        ];
        let processes = vec![
            stage.service(
                "ledger-orders",
                "decides commands and appends events",
                &["ledger-orders", "--listen", &listen, "--database-url", &database_url],
            )?,
            stage.headwater("relay", "headwater run", &["run", "-c", argument(&config)?])?,
            stage.service("ledger-projection", "a view made of events", &project)?,
        ];
        // beside the other one for a while, and so at another address
        let anew_listen = stage.address();
        let anew = project.map(|argument| if argument == view_listen { &*anew_listen } else { argument });
        let anew: Vec<&str> = anew.into_iter().chain(["--rebuild"]).collect();
        let rebuilding = stage.service("ledger-projection-anew", "the view, made again", &anew)?;
        for process in &processes {
            process.start()?;
        }
        let orders_url = format!("http://{listen}");
        stage.until_answers(&format!("{orders_url}/healthz")).await?;
        stage.until_answers(&format!("http://{relay_listen}/readyz")).await?;
        stage.until_answers(&format!("http://{view_listen}/healthz")).await?;
        Ok(Ledger { stage, orders, projection, orders_url, processes, rebuilding })
    }
}

fn relay_toml(stage: &Stage, database_url: &str, listen: &str) -> String {
    let sections = format!(
        r#"[[outbox]]
table = "public.order_event"
topic = "{}.${{aggregatetype}}"
aggregatetypes = "order"
columns = {{ aggregateid = "order_id" }}
headers = {{ version = "version" }}
payload = "raw"
"#,
        stage.servers.name
    );
    let slot = stage.named("ledger");
    relay_config(
        stage,
        &Relay { database_url, slot: &slot, publication: "ledger", listen, sections: &sections },
    )
}
