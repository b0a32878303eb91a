//! ISO 8601 text as the numbers of Avro's logical types, and of Connect's and Debezium's types in their place.

use crate::types;

/// The number; none where the meaning is no date and no time.
pub(super) fn number(meaning: &str, text: &str) -> Option<Result<i64, &'static str>> {
    Some(match meaning {
        "date" | "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" => {
            types::iso_days(text).map_err(|_| "is no date (2026-01-31)")
        }
        "time-millis" | "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => {
            time(text).and_then(millis)
        }
        "time-micros" | "io.debezium.time.MicroTime" => time(text),
        "io.debezium.time.NanoTime" => time(text).and_then(nanos),
        "timestamp-millis" | "org.apache.kafka.connect.data.Timestamp" => instant(text).and_then(millis),
        "timestamp-micros" => instant(text),
        "timestamp-nanos" => instant(text).and_then(nanos),
        "local-timestamp-millis" | "io.debezium.time.Timestamp" => local(text).and_then(millis),
        "local-timestamp-micros" | "io.debezium.time.MicroTimestamp" => local(text),
        "local-timestamp-nanos" | "io.debezium.time.NanoTimestamp" => local(text).and_then(nanos),
        _ => return None,
    })
}

fn time(text: &str) -> Result<i64, &'static str> {
    types::iso_time_micros(text).map_err(|_| "is no time of day (23:59:59.999)")
}

fn instant(text: &str) -> Result<i64, &'static str> {
    types::iso_instant_micros(text).map_err(|_| "is no moment with its zone (2026-01-31T23:59:59.999Z)")
}

fn local(text: &str) -> Result<i64, &'static str> {
    types::iso_local_micros(text).map_err(|_| "is no timestamp without a zone (2026-01-31T23:59:59.999)")
}

fn millis(micros: i64) -> Result<i64, &'static str> {
    if micros % 1000 == 0 {
        Ok(micros / 1000)
    } else {
        Err("has more than milliseconds, which is what its schema holds")
    }
}

fn nanos(micros: i64) -> Result<i64, &'static str> {
    micros.checked_mul(1000).ok_or("is beyond the nanoseconds that its schema holds")
}
