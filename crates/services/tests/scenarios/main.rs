//! The scenarios on real servers: their scripts in the short form, the shop's page in a browser, and what Prometheus sees.

mod browser;
mod monitoring;
mod page;
mod servers;

use servers::scenario;

/// Plays a scenario; its output is this test's.
fn check(name: &str, ports: u16) {
    let (mut command, folder) = scenario(name, ports);
    let status = command.status().expect("the scenario starts");
    assert!(status.success(), "scenario {name} failed; its logs are in {}", folder.display());
    std::fs::remove_dir_all(folder).ok();
}

#[test]
fn shop() {
    check("shop", 19_000);
}

#[test]
fn saga() {
    check("saga", 19_100);
}

#[test]
fn ledger() {
    check("ledger", 19_200);
}

#[test]
fn profile() {
    check("profile", 19_300);
}
