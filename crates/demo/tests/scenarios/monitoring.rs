//! What Prometheus sees of scenarios that run: alerts fire when something breaks and end when it is healed, and every
//! query of the dashboards finds something.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value as Json, json};
use tokio_postgres::{Client, NoTls};

use crate::dashboards::queries;
use crate::page;
use crate::prometheus::Prometheus;
use crate::servers::{address, server};

/// What has no data in the shop, and why.
const EMPTY: [(&str, &str); 4] = [
    ("headwater_slot_safe_wal_bytes", "the test's server has no max_slot_wal_keep_size"),
    ("headwater_dead_letters_total", "the shop's relay sets nothing aside"),
    ("headwater_blocked_keys", "the same"),
    ("headwater_snapshot_rows_read", "the outbox was empty when it was copied: there is no share of no rows"),
];

/// Metrics of services that read topics themselves. For the shop's order service `headwater apply` does it: these are
/// looked for in the profile.
const CONSUMERS: [&str; 2] = ["service_consumer_lag_records)", "service_events_total"];

/// A scenario, and somebody who breaks it.
struct Watched {
    page: String,
    http: reqwest::Client,
    name: String,
    prometheus: Prometheus,
}

impl Watched {
    async fn press(&self, button: &str, body: Json) -> Result<()> {
        let url = format!("http://{}/{button}", self.page);
        self.http.post(url).json(&body).send().await?.error_for_status()?;
        Ok(())
    }

    async fn stock(&self, sku: &str, quantity: u32) -> Result<()> {
        self.press("stock", json!({ "sku": sku, "quantity": quantity })).await
    }

    /// A session in one of the scenario's databases.
    async fn database(&self, rest: &str) -> Result<Client> {
        connect(&format!("{}_{rest}", self.name)).await
    }

    async fn an_event_dies(&self) -> Result<()> {
        // the first one ever, which a rate would not see
        self.press("trouble", json!({ "sku": "*" })).await?;
        self.stock("SAW-01", 3).await?;
        self.prometheus.until_fired("HeadwaterEventsDead", "").await?;
        self.prometheus
            .until_series("headwater_outbox_notifications_total{outcome=\"sent\"} == 1", 1)
            .await?;
        self.press("trouble", json!({ "sku": "" })).await?;
        let state: Json = self.http.get(format!("http://{}/state", self.page)).send().await?.json().await?;
        let events = state["events"].as_array().context("no events")?;
        let dead = events.iter().find(|event| event["status"] == "DEAD").context("no event is DEAD")?;
        let id = dead["id"].as_str().context("an event without an id")?;
        self.press(&format!("events/{id}/retry"), json!({})).await?;
        let processed = "headwater_outbox_answers_total{outcome=\"processed\"} >= 7";
        self.prometheus.until_series(processed, 1).await?;
        self.prometheus.until_over("HeadwaterEventsDead").await
    }

    async fn services_are_down(&self) -> Result<()> {
        self.press("processes/orders/kill", json!({})).await?;
        self.prometheus.until_fired("ServiceDown", "job=\"orders\"").await?;
        self.press("processes/orders/start", json!({})).await?;
        self.press("processes/relay/stop", json!({})).await?;
        self.prometheus.until_fired("HeadwaterAbsent", "job=\"relay\"").await?;
        self.press("processes/relay/start", json!({})).await?;
        self.prometheus.until_over("HeadwaterAbsent").await?;
        self.prometheus.until_over("ServiceDown").await
    }

    /// By a lock that somebody holds: the transaction of the first event hangs.
    async fn apply_hangs(&self) -> Result<()> {
        let orders = self.database("orders").await?;
        orders.batch_execute("BEGIN; LOCK TABLE inventory_copy").await?;
        for quantity in 1..=8 {
            self.stock("BUC-10", quantity).await?;
        }
        self.prometheus.until_fired("HeadwaterApplyBehind", "").await?;
        self.prometheus.until_fired("HeadwaterApplyLate", "").await?;
        orders.batch_execute("ROLLBACK").await?;
        self.prometheus.until_over("HeadwaterApplyBehind").await?;
        self.prometheus.until_over("HeadwaterApplyLate").await
    }

    /// Neither text nor Avro.
    async fn a_record_is_no_event(&self) -> Result<()> {
        let producer: FutureProducer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", server("KAFKA_BOOTSTRAP")).create()?;
        let topic = format!("{}.inventory", self.name);
        let record = FutureRecord::to(&topic).key("SAW-01").payload(&[0xff, 0xfe]);
        let sent = producer.send(record, Duration::from_secs(60)).await;
        sent.map_err(|(error, _)| error)?;
        self.prometheus.until_fired("HeadwaterApplyDeadLetters", "").await?;
        self.prometheus.until_over("HeadwaterApplyDeadLetters").await
    }

    /// By a transaction that stays open, as somebody's forgotten session would.
    async fn wal_is_held(&self) -> Result<()> {
        let (product, other) = (self.database("product").await?, connect("postgres").await?);
        product.batch_execute("BEGIN; CREATE TABLE forgotten (at int)").await?;
        // in another database: the relay is not given it to read
        let wal = "SELECT count(pg_logical_emit_message(false, '', repeat('x', 1024 * 1024))) FROM generate_series(1, 40)";
        other.batch_execute(wal).await?;
        self.prometheus.until_fired("HeadwaterSlotHoldsWal", "").await?;
        product.batch_execute("ROLLBACK").await?;
        let begun = Instant::now();
        // the slot moves when the server says which transactions run, which it does now and then by itself
        while !self.prometheus.query("ALERTS{alertname=\"HeadwaterSlotHoldsWal\"}").await?.is_empty() {
            ensure!(begun.elapsed() < Duration::from_secs(120), "the slot still holds WAL");
            other.batch_execute("SELECT pg_log_standby_snapshot()").await?;
            self.stock("ROP-20", fastrand::u32(1..100)).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn the_relay_loses_its_connection(&self) -> Result<()> {
        let slot = format!("{}_product", self.name);
        let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1";
        connect("postgres").await?.query(cut, &[&slot]).await?;
        self.prometheus.until_number("headwater_reconnects_total{peer=\"postgres\"}").await
    }

    async fn dashboards_show_something(&self) -> Result<()> {
        // what the last minute has to have, for rates
        self.stock("ROP-20", 30).await?;
        self.press("orders", json!({ "sku": "ROP-20", "quantity": 1 })).await?;
        for expression in queries("services.json")? {
            if !CONSUMERS.iter().any(|metric| expression.contains(metric)) {
                self.prometheus.until_number(&expression).await?;
            }
        }
        for expression in queries("headwater.json")? {
            let empty = EMPTY.iter().find(|(metric, _)| expression.contains(metric));
            match empty {
                None => self.prometheus.until_number(&expression).await?,
                Some((_, why)) => {
                    let found = self.prometheus.query(&expression).await?;
                    ensure!(found.is_empty(), "{expression} has data, though {why}: {found:?}");
                }
            }
        }
        Ok(())
    }
}

async fn connect(database: &str) -> Result<Client> {
    let url = server("PG16_URL");
    let (host, _) = url.rsplit_once('/').context("the URL names no database")?;
    let (client, connection) = tokio_postgres::connect(&format!("{host}/{database}"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The scenario's own name, which begins those of its databases and topics.
fn name(folder: &Path) -> Result<String> {
    Ok(folder.file_name().context("a folder without a name")?.to_string_lossy().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn shop_is_watched() -> Result<()> {
    let page = address();
    let (shop, folder) = page::start("shop", &page).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let watched = Watched { page, http, name: name(&folder)?, prometheus: Prometheus::start(&folder)? };
    watched.prometheus.until_series("up == 1", 4).await?;
    watched.an_event_dies().await?;
    watched.services_are_down().await?;
    watched.apply_hangs().await?;
    watched.a_record_is_no_event().await?;
    watched.wal_is_held().await?;
    watched.the_relay_loses_its_connection().await?;
    watched.dashboards_show_something().await?;
    drop((watched, shop));
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}

/// The e-mail service reads a topic itself: it is given an event that does not fit, and is paused.
#[tokio::test(flavor = "multi_thread")]
async fn profile_is_watched() -> Result<()> {
    let page = address();
    let (profile, folder) = page::start("profile", &page).await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let watched = Watched { page, http, name: name(&folder)?, prometheus: Prometheus::start(&folder)? };
    watched.prometheus.until_series("up == 1", 3).await?;
    watched.press("users", json!({ "id": "user-1", "name": "User 1" })).await?;
    watched.prometheus.until_fired("ServiceDeadLetters", "job=\"mailer\"").await?;
    watched.press("mailer/pause", json!({})).await?;
    for number in 1..=8 {
        let user = json!({ "id": "user-1", "name": "User 1", "email": format!("user{number}@example.com") });
        watched.press("users", user).await?;
    }
    watched.prometheus.until_fired("ServiceConsumerBehind", "job=\"mailer\"").await?;
    watched.press("mailer/resume", json!({})).await?;
    watched.prometheus.until_over("ServiceConsumerBehind").await?;
    watched.prometheus.until_over("ServiceDeadLetters").await?;
    for expression in queries("services.json")? {
        if CONSUMERS.iter().any(|metric| expression.contains(metric)) {
            watched.prometheus.until_number(&expression).await?;
        }
    }
    drop((watched, profile));
    std::fs::remove_dir_all(folder).ok();
    Ok(())
}
