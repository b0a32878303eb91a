//! Snapshots for people: the table of `headwater snapshot status`, and the progress bars of `headwater run` on a
//! terminal.
//!
//! In: the status as its JSON has it. Whatever else writes to that terminal does so through [`AboveBars`], or a line
//! would end up in the midst of a bar.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use headwater_pipeline::snapshot::control::SnapshotControl;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::commands::check::human_bytes;

/// Time between two looks at the status.
const REFRESH: Duration = Duration::from_millis(250);

/// Bars at a time: what a small terminal has room for beside some lines of the log.
const BARS_MAX: usize = 8;

/// Cells of a bar.
const BAR_CELLS: usize = 16;

/// A bar's steps: tenths of a percent.
const STEPS: u64 = 1000;

/// Hidden as long as it has no bar.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Standard error, above the bars that are there.
pub struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows the bars of whatever snapshot there is, for as long as the process runs.
pub async fn show_bars(snapshots: Arc<SnapshotControl>) {
    snapshots.set_watched();
    let mut shown: BTreeMap<String, ProgressBar> = BTreeMap::new();
    loop {
        tokio::time::sleep(REFRESH).await;
        let status =
            snapshots.status().and_then(|status| serde_json::to_value(status).ok()).unwrap_or_default();
        show(&status, &mut shown);
    }
}

/// Nothing of the bars is left.
pub fn clear_bars() {
    // A terminal that is gone has none either.
    drop(BARS.clear());
}

/// A bar of that name.
pub fn new_bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{prefix}} [{{bar:{BAR_CELLS}}}] {{wide_msg}}"));
    let style = style.expect("the template is a constant").progress_chars("=> ");
    BARS.add(ProgressBar::new(STEPS).with_style(style).with_prefix(name.to_owned()))
}

/// Takes a bar away.
pub fn remove_bar(bar: &ProgressBar) {
    bar.finish_and_clear();
    BARS.remove(bar);
}

fn show(status: &Value, shown: &mut BTreeMap<String, ProgressBar>) {
    let copying: Vec<(&String, &Value)> = match (status["state"].as_str(), status["tables"].as_object()) {
        (Some("running"), Some(tables)) => {
            tables.iter().filter(|(_, table)| table["state"] == "copying").take(BARS_MAX).collect()
        }
        _ => Vec::new(),
    };
    shown.retain(|name, bar| {
        let stays = copying.iter().any(|(copied, _)| *copied == name);
        if !stays {
            remove_bar(bar);
        }
        stays
    });
    let waiting = status["waiting"].as_str();
    for (name, table) in copying {
        let bar = shown.entry(name.clone()).or_insert_with(|| new_bar(name));
        bar.set_position((number(table, "percent") * STEPS as f64 / 100.0) as u64);
        let mut message = bar_text(table);
        if let Some(waiting) = waiting {
            message.push_str(&format!("  waits: {waiting}"));
        }
        bar.set_message(message);
    }
}

/// What stands beside a bar: what a narrow terminal has no room for comes last.
fn bar_text(table: &Value) -> String {
    format!(
        "{:4.1} %  {} rows/s  {}/s  {} left  {} of about {} rows",
        number(table, "percent"),
        grouped(whole(table, "rows_per_second")),
        human_bytes(whole(table, "bytes_per_second")),
        table["eta_seconds"].as_f64().map_or_else(|| "?".to_owned(), duration),
        grouped(whole(table, "rows_read")),
        grouped(whole(table, "rows_estimated")),
    )
}

/// The whole status as a table.
pub fn table_text(status: &Value) -> String {
    let Some(tables) = status["tables"].as_object() else { return "no snapshot was made yet\n".to_owned() };
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let done = tables.values().filter(|table| table["state"] == "done").count();
    let mut text = format!(
        "snapshot {}, {}, {}: {done} of {} tables done\n",
        word(&status["id"]),
        word(&status["kind"]),
        word(&status["state"]),
        tables.len()
    );
    if let Some(waiting) = status["waiting"].as_str() {
        text.push_str(&format!("waiting: {waiting}\n"));
    }
    if let Some(age) = status["transaction_age_seconds"].as_f64() {
        let limit = status["transaction_age_seconds_max"].as_f64().map_or(String::new(), |limit| {
            format!(", of at most {} (snapshot.max_transaction_age)", duration(limit))
        });
        text.push_str(&format!(
            "its transaction, which holds back vacuum, is {} old{limit}\n",
            duration(age)
        ));
    }
    let mut lines = vec![
        ["table", "state", "rows", "of about", "%", "bytes", "chunks", "time", "rows/s", "bytes/s", "left"]
            .map(str::to_owned),
    ];
    for (name, table) in tables {
        let rate = |key: &str| whole(table, key);
        lines.push([
            name.clone(),
            word(&table["state"]),
            grouped(whole(table, "rows_read")),
            grouped(whole(table, "rows_estimated")),
            format!("{:.1}", number(table, "percent")),
            human_bytes(whole(table, "bytes")),
            grouped(whole(table, "chunks")),
            duration(number(table, "seconds")),
            if rate("rows_per_second") > 0 { grouped(rate("rows_per_second")) } else { "-".to_owned() },
            if rate("bytes_per_second") > 0 { human_bytes(rate("bytes_per_second")) } else { "-".to_owned() },
            table["eta_seconds"].as_f64().map_or_else(|| "-".to_owned(), duration),
        ]);
    }
    push_aligned(&mut text, &lines);
    for (name, table) in tables {
        if let Some(error) = table["error"].as_str() {
            text.push_str(&format!("{name}: {error}\n"));
        }
    }
    text
}

/// Names and states to the left, numbers to the right.
fn push_aligned<const COLUMNS: usize>(text: &mut String, lines: &[[String; COLUMNS]]) {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        let cells: Vec<String> = cells.collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
}

fn number(table: &Value, key: &str) -> f64 {
    table[key].as_f64().unwrap_or(0.0)
}

fn whole(table: &Value, key: &str) -> u64 {
    table[key].as_u64().unwrap_or_else(|| number(table, key) as u64)
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 4000 seconds as 1h06m.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "id": "initial", "kind": "initial", "state": "running", "waiting": null,
            "transaction_age_seconds": 3.2, "transaction_age_seconds_max": 1800.0,
            "tables": {
                "public.orders": {
                    "state": "copying", "rows": 4, "rows_read": 1_234_567, "rows_estimated": 2_000_000,
                    "percent": 61.7, "bytes": 2048, "chunks": 3, "seconds": 65.4, "rows_per_second": 1000.9,
                    "bytes_per_second": 2048.0, "eta_seconds": 765.0, "error": null },
                "public.a": {
                    "state": "failed", "rows": 0, "rows_read": 0, "rows_estimated": 0, "percent": 0.0, "bytes": 0,
                    "chunks": 0, "seconds": 0.0, "rows_per_second": 0.0, "bytes_per_second": 0.0,
                    "eta_seconds": null, "error": "cancelled" },
            },
        })
    }

    #[test]
    fn a_status_is_a_table() {
        let text = table_text(&status());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "snapshot initial, initial, running: 0 of 2 tables done",
                "its transaction, which holds back vacuum, is 3s old, of at most 30m00s (snapshot.max_transaction_age)",
                "table          state         rows   of about     %    bytes  chunks   time  rows/s  bytes/s    left",
                "public.a       failed           0          0   0.0      0 B       0     0s       -        -       -",
                "public.orders  copying  1,234,567  2,000,000  61.7  2.0 KiB       3  1m05s   1,000  2.0 KiB  12m45s",
                "public.a: cancelled",
            ],
            "{text}"
        );
        assert_eq!(table_text(&Value::Null), "no snapshot was made yet\n");
    }

    #[test]
    fn a_bar_has_what_a_person_wants_to_know() {
        let text = bar_text(&status()["tables"]["public.orders"]);
        assert_eq!(text, "61.7 %  1,000 rows/s  2.0 KiB/s  12m45s left  1,234,567 of about 2,000,000 rows");
    }

    #[test]
    fn bars_come_and_go_with_the_tables_that_are_copied() {
        let mut shown = BTreeMap::new();
        let mut status = status();
        show(&status, &mut shown);
        assert_eq!(shown.keys().collect::<Vec<_>>(), ["public.orders"]);
        assert_eq!(shown["public.orders"].position(), 617);
        status["state"] = json!("done");
        show(&status, &mut shown);
        assert!(shown.is_empty());
        show(&Value::Null, &mut shown);
    }

    #[test]
    fn numbers_and_times() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (seconds, text) in [(0.4, "0s"), (59.0, "59s"), (61.0, "1m01s"), (4000.0, "1h06m")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
