//! The shop: a product service that owns `inventory`, and an order service with a copy that is kept by events.
//!
//! ```text
//! product service -> inventory + headwater.outbox -> headwater run -> Kafka -> headwater apply -> inventory_copy <- order service
//!                                     ^ statuses <-       answers SUCCESS, FAILED       <-'
//! ```

pub mod orders;
pub mod product;

mod page;
mod script;
mod witness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use reqwest::RequestBuilder;
use serde_json::{Value as Json, json};

use crate::database::Database;
use crate::run::{
    Mailbox, Playing, Process, Relay, Scenario, Servers, Settings, Stage, apply_config, argument, perform,
    prometheus_config, relay_config, until,
};

const OUTBOX: &str = include_str!("../../../sql/outbox.sql");

/// How often an event is tried.
const ATTEMPTS: i32 = 3;

/// Everything that runs, and where to look at it.
pub struct Shop {
    stage: Stage,
    product: Database,
    orders: Database,
    product_url: String,
    orders_url: String,
    relay_url: String,
    apply_url: String,
    relay_config: PathBuf,
    processes: Vec<Process>,
    mailbox: Mailbox,
}

/// Starts the shop, plays the script, and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    perform(Shop::start(&settings.servers).await?, &settings.playing).await
}

impl Scenario for Shop {
    const PAGE: &'static str = include_str!("page.html");

    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn mailbox(&self) -> Option<&Mailbox> {
        Some(&self.mailbox)
    }

    async fn state(&self, _: Option<&str>) -> Result<Json> {
        page::state(self).await
    }

    fn buttons() -> Router<Arc<Shop>> {
        page::buttons()
    }

    async fn play(&self, playing: &Playing) -> Result<()> {
        script::play(self, playing.long, playing.page_only).await
    }
}

impl Shop {
    async fn start(servers: &Servers) -> Result<Shop> {
        let stage = Stage::new(servers)?;
        stage.say("two databases, a mail server, four processes");
        let product = stage.create_database("product", &[OUTBOX, include_str!("product.sql")]).await?;
        let orders = stage.create_database("orders", &[include_str!("orders.sql")]).await?;
        let topics = ["inventory", "inventory.dead_letter", "feedback"];
        let topics = topics.map(|topic| format!("{}.{topic}", servers.name));
        stage.make_topics(&topics.each_ref().map(String::as_str)).await?;
        let smtp = stage.address();
        let mailbox = Mailbox::start(&servers.stack, port_of(&smtp)?).await?;
        let addresses = [stage.address(), stage.address(), stage.address(), stage.address()];
        let [product_address, orders_address, relay_address, apply_address] = &addresses;
        let product_db = stage.database_url(&stage.named("product"))?;
        let orders_db = stage.database_url(&stage.named("orders"))?;
        let relay_config =
            stage.write("relay.toml", &relay_toml(&stage, &product_db, relay_address, port_of(&smtp)?))?;
        let apply_config = stage.write("apply.toml", &apply_toml(&stage, &orders_db, apply_address))?;
        let service = |name, what, address: &str, database: &str| {
            stage.service(name, what, &[name, "--listen", address, "--database-url", database])
        };
        let headwater = |name, what, command, config: &PathBuf| {
            stage.headwater(name, what, &[command, "-c", argument(config)?])
        };
        let processes = vec![
            service("product", "owns the inventory", product_address, &product_db)?,
            headwater("relay", "headwater run: outbox to Kafka, and the answers back", "run", &relay_config)?,
            headwater("apply", "headwater apply: events into the copy, answers", "apply", &apply_config)?,
            service("orders", "takes orders by its copy", orders_address, &orders_db)?,
        ];
        let jobs = [
            ("product", &**product_address),
            ("relay", relay_address),
            ("apply", apply_address),
            ("orders", orders_address),
        ];
        stage.write("prometheus.yml", &prometheus_config(&jobs))?;
        let url = |address: &String| format!("http://{address}");
        let shop = Shop {
            product_url: url(product_address),
            orders_url: url(orders_address),
            relay_url: url(relay_address),
            apply_url: url(apply_address),
            stage,
            product,
            orders,
            relay_config,
            processes,
            mailbox,
        };
        for process in &shop.processes {
            process.start()?;
        }
        shop.until_ready().await?;
        Ok(shop)
    }

    async fn until_ready(&self) -> Result<()> {
        let ready = [
            format!("{}/healthz", self.product_url),
            format!("{}/healthz", self.orders_url),
            format!("{}/readyz", self.relay_url),
            format!("{}/healthz", self.apply_url),
        ];
        for url in &ready {
            self.stage.until_answers(url, &self.processes).await?;
        }
        Ok(())
    }

    /// Through the product service, as its users would.
    fn stock_request(&self, sku: &str, name: Option<&str>, quantity: i32) -> RequestBuilder {
        let url = format!("{}/inventory/{sku}", self.product_url);
        self.stage.http.put(url).json(&json!({ "name": name, "quantity": quantity }))
    }

    async fn set_stock(&self, sku: &str, name: Option<&str>, quantity: i32) -> Result<Json> {
        let answer = self.stock_request(sku, name, quantity).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    fn order_request(&self, sku: &str, quantity: i32) -> RequestBuilder {
        let url = format!("{}/orders", self.orders_url);
        self.stage.http.post(url).json(&json!({ "sku": sku, "quantity": quantity }))
    }

    async fn place_order(&self, sku: &str, quantity: i32) -> Result<Json> {
        Ok(self.order_request(sku, quantity).send().await?.error_for_status()?.json().await?)
    }

    /// The switch: which articles the order service can't apply, `*` for all.
    async fn trouble(&self, sku: Option<&str>) -> Result<()> {
        let client = self.orders.client().await?;
        client.execute("DELETE FROM trouble", &[]).await?;
        if let Some(sku) = sku {
            client.execute("INSERT INTO trouble VALUES ($1)", &[&sku]).await?;
        }
        Ok(())
    }

    /// How many events there are in each status.
    async fn statuses(&self) -> Result<BTreeMap<String, i64>> {
        let client = self.product.client().await?;
        let rows = client.query("SELECT status, count(*) FROM headwater.outbox GROUP BY status", &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn until_status(&self, status: &str, count: i64) -> Result<()> {
        until(&format!("{count} events that are {status}"), async || {
            Ok(self.statuses().await?.get(status).copied().unwrap_or(0) == count)
        })
        .await
    }

    /// Both tables, as one text each.
    async fn tables(&self) -> Result<(String, String)> {
        let sql = |table| format!("SELECT coalesce(json_agg(t ORDER BY sku), '[]')::text FROM {table} t");
        Ok((self.product.text(&sql("inventory")).await?, self.orders.text(&sql("inventory_copy")).await?))
    }

    async fn outbox(&self, arguments: &[&str]) -> Result<String> {
        self.stage.outbox(&self.relay_config, arguments).await
    }
}

fn port_of(address: &str) -> Result<&str> {
    Ok(address.rsplit_once(':').context("no port")?.1)
}

fn relay_toml(stage: &Stage, database_url: &str, listen: &str, smtp_port: &str) -> String {
    let name = &stage.servers.name;
    let sections = format!(
        r#"[[outbox]]
table = "headwater.outbox"
topic = "{name}.${{aggregatetype}}"
aggregatetypes = "inventory"
headers_column = "headers"
status = true

[feedback]
topic = "{name}.feedback"
group = "{name}-product"
instance = "one"    # killed and started again, it reads on at once
max_attempts = {ATTEMPTS}
backoff = "500ms"

[[event_type]]
types = "InventoryChanged"
processed_when = "all"
consumers = ["{name}-orders"]

[mail]
host = "127.0.0.1"
port = {smtp_port}
tls = "none"
from = "Headwater <headwater@example.com>"
to = ["product-team@example.com"]

[notify]
interval = "1s"
"#
    );
    let slot = stage.named("product");
    let relay =
        Relay { database_url, slot: &slot, publication: "headwater_outbox", listen, sections: &sections };
    relay_config(stage, &relay)
}

fn apply_toml(stage: &Stage, database_url: &str, listen: &str) -> String {
    let name = &stage.servers.name;
    let apply = format!(
        r#"group = "{name}-orders"
instance = "one"
event_topics = ["{name}.inventory"]
on_event.'InventoryChanged' = "select inventory_changed($1)"
feedback_topic = "{name}.feedback"
on_poison = "dead_letter""#
    );
    apply_config(stage, database_url, listen, &apply)
}
