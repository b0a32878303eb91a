//! The ledger: an order that is nothing but its events. The table of events is the outbox as well.

pub mod order;
pub mod orders;
pub mod projection;

mod page;
mod race;
mod script;
mod store;

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use reqwest::RequestBuilder;
use serde_json::Value as Json;

use crate::database::Database;
use crate::run::{
    Playing, Process, Relay, Scenario, Servers, Settings, Stage, argument, perform, prometheus_config,
    relay_config,
};
use order::Command;

/// What runs, and where to look.
pub struct Ledger {
    stage: Stage,
    orders: Database,
    /// A second session in the order service's database, for commands that compete.
    rival: Database,
    projection: Database,
    orders_url: String,
    processes: Vec<Process>,
    /// The script's second instance of the view.
    rebuilding: Process,
}

/// Starts it, plays the script and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    perform(Ledger::start(&settings.servers).await?, &settings.playing).await
}

impl Scenario for Ledger {
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

    fn buttons() -> Router<Arc<Ledger>> {
        page::buttons()
    }

    async fn play(&self, playing: &Playing) -> Result<()> {
        if playing.page_only {
            return script::opened(self).await;
        }
        script::play(self, if playing.long { 5000 } else { 400 }).await?;
        if playing.stay { self.playable().await } else { script::halted(self).await }
    }
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
            stage.headwater("relay", "headwater run: events to Kafka", &["run", "-c", argument(&config)?])?,
            stage.service("ledger-projection", "a view made of the topic alone", &project)?,
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
        stage.until_answers(&format!("{orders_url}/healthz"), &processes).await?;
        stage.until_answers(&format!("http://{relay_listen}/readyz"), &processes).await?;
        stage.until_answers(&format!("http://{view_listen}/healthz"), &processes).await?;
        let rival = Database::new(&stage.own_url(&stage.named("ledger"))?)?;
        Ok(Ledger { stage, orders, rival, projection, orders_url, processes, rebuilding })
    }

    fn command_request(&self, id: &str, command: &Command) -> RequestBuilder {
        self.stage.http.post(format!("{}/orders/{id}", self.orders_url)).json(command)
    }

    /// Leaves one view, with its button.
    async fn playable(&self) -> Result<()> {
        self.rebuilding.stop().await?;
        self.process("ledger-projection")?.start()
    }

    /// Throws the view away and makes it again from the topic.
    async fn rebuild(&self) -> Result<()> {
        let projection = self.process("ledger-projection")?;
        projection.stop().await?;
        projection.start_with(&["--rebuild"])
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
