//! The scenarios on real servers: their scripts in the short form, their pages in a browser, what Prometheus sees, and the
//! rules and dashboards of deploy/.

mod alerts;
mod browser;
mod dashboards;
mod monitoring;
mod page;
mod prometheus;
mod servers;

use servers::scenario;

/// Plays a scenario; what it says is kept with its logs.
fn check(name: &str) {
    let (mut command, folder) = scenario(name);
    let said = folder.join("said");
    let file = std::fs::File::create(&said).expect("a file in the test's folder");
    let errors = file.try_clone().expect("a second handle of it");
    let status = command.stdout(file).stderr(errors).status().expect("the scenario starts");
    let said = std::fs::read_to_string(&said).unwrap_or_default();
    assert!(status.success(), "scenario {name} failed; its logs are in {}\n{said}", folder.display());
    std::fs::remove_dir_all(folder).ok();
}

#[test]
fn shop() {
    check("shop");
}

#[test]
fn saga() {
    check("saga");
}

#[test]
fn ledger() {
    check("ledger");
}

#[test]
fn profile() {
    check("profile");
}
