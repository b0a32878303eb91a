//! The dashboards of deploy/grafana: their form, and their queries. That each of these finds something is in monitoring.rs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::prometheus::{deploy, rules};

pub const DASHBOARDS: [&str; 2] = ["headwater.json", "services.json"];

fn read(dashboard: &str) -> Result<Json> {
    let text = std::fs::read_to_string(deploy("grafana").join(dashboard))?;
    serde_json::from_str(&text).with_context(|| format!("{dashboard} is no JSON"))
}

/// Its panels without the rows that part them.
fn panels(dashboard: &Json) -> Result<Vec<&Json>> {
    let panels = dashboard["panels"].as_array().context("a dashboard without panels")?;
    Ok(panels.iter().filter(|panel| panel["type"] != "row").collect())
}

/// The queries of a dashboard, with its variables filled in.
pub fn queries(dashboard: &str) -> Result<Vec<String>> {
    let dashboard = read(dashboard)?;
    let mut queries = Vec::new();
    for panel in panels(&dashboard)? {
        for target in panel["targets"].as_array().context("a panel without queries")? {
            let expression = target["expr"].as_str().context("a target without a query")?;
            queries.push(expression.replace("$__rate_interval", "1m").replace("$job", ".*"));
        }
    }
    Ok(queries)
}

/// What Grafana needs to import it and ask for a data source, and what a person needs to read it.
#[test]
fn dashboards_can_be_imported_and_read() -> Result<()> {
    let mut uids = BTreeSet::new();
    for file in DASHBOARDS {
        let dashboard = read(file)?;
        ensure!(uids.insert(dashboard["uid"].as_str().context("no uid")?.to_owned()), "{file}: a uid twice");
        // 38 came with Grafana 10
        ensure!(dashboard["schemaVersion"].as_u64() >= Some(38), "{file}: an old schema");
        ensure!(dashboard["id"].is_null(), "{file}: an id of somebody's Grafana");
        let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
        let is_datasource =
            |variable: &Json| variable["type"] == "datasource" && variable["name"] == "datasource";
        ensure!(variables.iter().any(is_datasource), "{file}: the data source can't be chosen");
        let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels(&dashboard)? {
            let title = panel["title"].as_str().unwrap_or_default();
            ensure!(!title.is_empty() && titles.insert(title), "{file}: no title, or {title} twice");
            ensure!(ids.insert(panel["id"].as_u64().context("no id")?), "{file}, {title}: an id twice");
            let description = panel["description"].as_str().unwrap_or_default();
            ensure!(description.ends_with('.'), "{file}, {title}: no description");
            ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}, {title}: no unit");
            let mut sources = vec![&panel["datasource"]];
            sources.extend(panel["targets"].as_array().into_iter().flatten().map(|it| &it["datasource"]));
            for source in sources {
                ensure!(source["uid"] == "${datasource}", "{file}, {title}: another data source");
            }
        }
    }
    Ok(())
}

/// Every `headwater_…` and `service_…` of a text; parts of a histogram under its own name.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c));
    let words = words.filter(|word| word.starts_with("headwater_") || word.starts_with("service_"));
    words.map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned()).collect()
}

#[test]
fn metrics_are_documented() -> Result<()> {
    let document = std::fs::read_to_string(deploy("../docs/METRICS.md"))?;
    let known: BTreeSet<_> = document.split('`').flat_map(metrics).collect();
    let mut texts: Vec<_> = DASHBOARDS.iter().map(|file| deploy("grafana").join(file)).collect();
    texts.extend(rules(false)?);
    texts.extend(rules(true)?);
    for file in texts {
        let used = metrics(&std::fs::read_to_string(&file)?);
        let unknown: Vec<_> = used.difference(&known).collect();
        ensure!(unknown.is_empty(), "{}: not in docs/METRICS.md: {unknown:?}", file.display());
    }
    // those of the services: their code has all of the document's, and no others
    let code = concat!(include_str!("../../service.rs"), include_str!("../../watch.rs"));
    let ours = |names: BTreeSet<String>| -> BTreeSet<_> {
        names.into_iter().filter(|name| name.starts_with("service_")).collect()
    };
    let (coded, documented) = (ours(code.split('"').flat_map(metrics).collect()), ours(known));
    ensure!(coded == documented, "services have {coded:?}, docs/METRICS.md {documented:?}");
    Ok(())
}
