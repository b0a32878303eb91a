//! The configuration of a Prometheus that watches a scenario, with the rules of deploy/prometheus.

/// Each process is a job of its own: a job is all instances of one service, or of one slot's Headwater.
pub fn prometheus_config(jobs: &[(&str, &str)]) -> String {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/prometheus");
    let mut text = format!(
        r#"global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: ["{rules}/alerts.yml", "{rules}/outbox-alerts.yml", "{rules}/service-alerts.yml"]
scrape_configs:
"#
    );
    for (job, address) in jobs {
        text += &format!("  - {{ job_name: {job}, static_configs: [{{ targets: [\"{address}\"] }}] }}\n");
    }
    text
}
