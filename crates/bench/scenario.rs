//! The visible load of `make demo`: what is committed on the left, what arrives through Kafka and the registry below it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use schema_registry_converter::async_impl::avro::AvroDecoder;
use schema_registry_converter::async_impl::schema_registry::SrSettings;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_postgres::Client;

use crate::consumer::{self, Arrival, From, Reader};
use crate::latency::{self, Report};
use crate::{Instance, Servers, database, display, observe};

/// The single-row load at the end, for the latency in the closing table.
const LATENCY_RATE: u32 = 500;
const LATENCY_SECONDS: u32 = 5;
/// How long a step waits for its records.
const PATIENCE: Duration = Duration::from_secs(60);

struct Demo {
    client: Client,
    decoder: AvroDecoder,
    arrivals: UnboundedReceiver<Arrival>,
    _reader: Reader,
    rows: u64,
    transactions: u64,
    records: u64,
}

/// Runs all of it and prints the closing table.
pub async fn run(servers: &Servers, instance: &Instance, large: i64) -> Result<()> {
    let topics = [format!("{}.public.inventory", instance.prefix), "outbox.event.order".to_owned()];
    let (reader, arrivals) = consumer::start(&servers.bootstrap, &topics, From::End)?;
    let mut demo = Demo {
        client: database::connect(&servers.database_url).await?,
        decoder: AvroDecoder::new(SrSettings::new(servers.registry.clone())),
        arrivals,
        _reader: reader,
        rows: 0,
        transactions: 0,
        records: 0,
    };
    // a second load on servers that were left up
    if demo.client.query_opt("SELECT FROM public.inventory LIMIT 1", &[]).await?.is_some() {
        demo.client.batch_execute("TRUNCATE public.inventory, public.outbox").await?;
    }
    demo.single_rows().await?;
    demo.events().await?;
    demo.large_transaction(large).await?;
    let report = demo.measured_load(servers, instance).await?;
    demo.table(instance, &report)
}

impl Demo {
    async fn single_rows(&mut self) -> Result<()> {
        title("single rows, one transaction each");
        for (id, sku, name, quantity, price) in [
            (1, "ANV-50", "Anvil, 50 kg", 12, "129.90"),
            (2, "ROP-20", "Rope, 20 m", 140, "18.50"),
            (3, "BUC-10", "Bucket, 10 l — Eimer", 75, "4.95"),
        ] {
            self.commit(&format!(
                "INSERT INTO inventory (id, sku, name, quantity, price) VALUES ({id}, '{sku}', '{name}', {quantity}, {price})"
            ), 1)
            .await?;
            self.show(1).await?;
        }
        title("updates and a delete (a delete is two records: the change, and a tombstone for compaction)");
        self.commit("UPDATE inventory SET quantity = quantity - 2, updated_at = now() WHERE id = 1", 1)
            .await?;
        self.show(1).await?;
        self.commit("UPDATE inventory SET price = price * 1.10, updated_at = now() WHERE id IN (2, 3)", 2)
            .await?;
        self.show(2).await?;
        self.commit("DELETE FROM inventory WHERE id = 3", 1).await?;
        self.show(2).await
    }

    async fn events(&mut self) -> Result<()> {
        title("an order: the stock and its event in one transaction (the outbox row is gone again at once)");
        for (order, quantity) in [(1001, 3), (1002, 5)] {
            let payload = format!(r#"{{"order": {order}, "sku": "ROP-20", "quantity": {quantity}}}"#);
            let sql = format!(
                "BEGIN;
                 UPDATE inventory SET quantity = quantity - {quantity}, updated_at = now() WHERE id = 2;
                 INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                     VALUES ('order', '{order}', 'OrderPlaced', '{payload}');
                 DELETE FROM outbox;
                 COMMIT"
            );
            self.commit(&sql, 2).await?;
            self.show(2).await?;
        }
        Ok(())
    }

    async fn large_transaction(&mut self, rows: i64) -> Result<()> {
        title(&format!(
            "one transaction of {rows} rows (every {}th record is shown; all are decoded)",
            rows / 5
        ));
        let begun = Instant::now();
        self.commit(&format!(
            "INSERT INTO inventory (id, sku, name, quantity, price)
             SELECT 10000 + n, 'BULK-' || n, 'bulk item ' || n, n % 500, n / 100.0 FROM generate_series(1, {rows}) n"
        ), rows as u64)
        .await?;
        let committed = Instant::now();
        let mut last = committed;
        for count in 1..=rows {
            let arrival = self.next().await?;
            last = arrival.at;
            let envelope = display::envelope(&self.decoder, arrival.value.as_deref()).await?;
            if count % (rows / 5).max(1) == 0 {
                println!("   <- {}", place(&arrival));
                if let Some(envelope) = envelope {
                    println!("        {} {}", operation(&envelope.op), envelope.after);
                }
            }
        }
        println!(
            "   {rows} records: the commit took {:.2} s, the last record came {:.2} s after it",
            (committed - begun).as_secs_f64(),
            last.saturating_duration_since(committed).as_secs_f64()
        );
        Ok(())
    }

    async fn measured_load(&mut self, servers: &Servers, instance: &Instance) -> Result<Report> {
        title(&format!("{LATENCY_RATE} single-row transactions a second, for {LATENCY_SECONDS} s"));
        let report = latency::measure(servers, &instance.prefix, LATENCY_RATE, LATENCY_SECONDS).await?;
        println!("   {report}");
        // one more: the row that warmed it up
        let transactions = u64::from(report.transactions) + 1;
        self.rows += transactions;
        self.transactions += transactions;
        for _ in 0..transactions {
            self.next().await?;
        }
        Ok(report)
    }

    /// Runs `sql`, which is one transaction that changes `rows` rows that count.
    async fn commit(&mut self, sql: &str, rows: u64) -> Result<()> {
        for line in sql.lines() {
            println!("-> {}", line.trim());
        }
        self.client.batch_execute(sql).await?;
        self.rows += rows;
        self.transactions += 1;
        Ok(())
    }

    async fn next(&mut self) -> Result<Arrival> {
        match tokio::time::timeout(PATIENCE, self.arrivals.recv()).await {
            Ok(Some(arrival)) => {
                self.records += 1;
                Ok(arrival)
            }
            _ => bail!("a committed row did not arrive within {} s", PATIENCE.as_secs()),
        }
    }

    /// Prints the next records, decoded.
    async fn show(&mut self, records: usize) -> Result<()> {
        for _ in 0..records {
            let arrival = self.next().await?;
            let key = display::plain(&self.decoder, arrival.key.as_deref()).await?;
            println!("   <- {}  key {key}", place(&arrival));
            if arrival.topic.starts_with("outbox.") {
                let event = arrival
                    .headers
                    .iter()
                    .filter(|(name, _)| name == "eventType")
                    .map(|(_, value)| value.as_str());
                let value = display::plain(&self.decoder, arrival.value.as_deref()).await?;
                println!("        event {} {value}", event.collect::<String>());
                continue;
            }
            match display::envelope(&self.decoder, arrival.value.as_deref()).await? {
                None => println!("        tombstone"),
                Some(change) => {
                    let row = if change.op == "d" { &change.before } else { &change.after };
                    println!("        {} {row}", operation(&change.op));
                }
            }
        }
        Ok(())
    }

    fn table(&self, instance: &Instance, report: &Report) -> Result<()> {
        title("in the end");
        let line = |name: &str, value: String| println!("   {name:<32} {value}");
        line("rows committed", format!("{} in {} transactions", self.rows, self.transactions));
        line("records consumed", format!("{} (each delete adds a tombstone)", self.records));
        if let Some(address) = &instance.http {
            let metrics = settled(address, self.records)?;
            line(
                "records acknowledged by Kafka",
                format!("{:.0}", metrics.get("headwater_records_acknowledged_total")),
            );
            line(
                "lag",
                format!(
                    "{:.0} bytes, {:.3} s",
                    metrics.get("headwater_lag_bytes"),
                    metrics.get("headwater_lag_seconds")
                ),
            );
        }
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        line("commit to consumer", format!("p50 {:.1} ms, p99 {:.1} ms", ms(report.p50), ms(report.p99)));
        if let Some(memory) = instance.pid.and_then(|pid| observe::memory(pid).ok()) {
            line(
                "memory of headwater",
                format!("{:.0} MiB, {:.0} MiB at its peak", memory.resident, memory.peak),
            );
        }
        Ok(())
    }
}

/// The metrics once everything is acknowledged and the lag is gone, or as they are after ten seconds: the server is
/// asked for its position now and then only.
fn settled(address: &str, records: u64) -> Result<observe::Metrics> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = observe::scrape(address)?;
        let done = metrics.get("headwater_records_acknowledged_total") >= records as f64
            && metrics.get("headwater_lag_bytes") == 0.0;
        if done || Instant::now() > deadline {
            return Ok(metrics);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn title(text: &str) {
    println!("\n== {text}");
}

fn place(arrival: &Arrival) -> String {
    format!("{} [{}] @{}", arrival.topic, arrival.partition, arrival.offset)
}

fn operation(op: &str) -> &'static str {
    match op {
        "c" => "created",
        "u" => "updated",
        "d" => "deleted",
        "r" => "read",
        _ => "changed",
    }
}
