//! The rules of deploy/prometheus: every alert is fired by a test of promtool, with the text that a person reads, and
//! docs/OPERATIONS.md says what to do about it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::prometheus::{MISSING, deploy, rules};

fn promtool(what: &str, file: &Path) -> Result<()> {
    let output = Command::new("promtool")
        .args([what, "rules"])
        .arg(file)
        .current_dir(deploy("prometheus"))
        .output()
        .context(MISSING)?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "promtool {what} {}: {}",
        file.display(),
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

#[test]
fn alerts_fire() -> Result<()> {
    rules(false)?.iter().try_for_each(|file| promtool("check", file))?;
    rules(true)?.iter().try_for_each(|file| promtool("test", file))
}

/// The words behind each `key`.
fn named<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    text.split(key).skip(1).filter_map(|rest| rest.split([' ', ',', '}', '\n']).next())
}

/// What test files ask of alerts: those that have to fire at a time, and those that have to be silent.
fn asked(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut fired, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for block in text.split("eval_time: ").skip(1) {
        let of = if block.contains("exp_labels: {") { &mut fired } else { &mut silent };
        of.extend(named(block, "alertname: "));
    }
    (fired, silent)
}

#[test]
fn every_alert_has_a_test_and_an_advice() -> Result<()> {
    let operations = std::fs::read_to_string(deploy("../docs/OPERATIONS.md"))?;
    let tests: Vec<_> = rules(true)?.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    let tests = tests.concat();
    let (fired, silent) = asked(&tests);
    let mut alerts = BTreeSet::new();
    for file in rules(false)? {
        let text = std::fs::read_to_string(file)?;
        alerts.extend(named(&text, "- alert: ").map(str::to_owned));
    }
    for alert in &alerts {
        ensure!(fired.contains(&**alert), "no test fires {alert}");
        ensure!(silent.contains(&**alert), "no test says when {alert} is silent");
        ensure!(operations.contains(&format!("\n| `{alert}`")), "docs/OPERATIONS.md has no row for {alert}");
    }
    let unknown: Vec<_> = fired.union(&silent).filter(|alert| !alerts.contains(**alert)).collect();
    ensure!(unknown.is_empty(), "tests of alerts that do not exist: {unknown:?}");
    Ok(())
}

#[test]
fn what_is_asked_is_found() {
    let text = "- { eval_time: 1m, alertname: A }\n- eval_time: 2m\n  alertname: A\n  exp_alerts:\n    - exp_labels: { x: y }\n\
                - eval_time: 3m\n  alertname: B\n  exp_alerts: []\n";
    assert_eq!(asked(text), (BTreeSet::from(["A"]), BTreeSet::from(["A", "B"])));
}
