//! The same for the configuration of `headwater apply`: what [`headwater_apply::check`] found, as a report.

use headwater_apply::Met;

use super::report::Report;
use crate::config::apply::ApplyConfig;

/// Asks the target database, the brokers and the registry.
pub async fn check(config: &ApplyConfig) -> Report {
    let mut report = Report::default();
    for finding in headwater_apply::check(&config.settings).await {
        match finding.met {
            Met::Yes => report.ok(finding.requirement, finding.why),
            Met::Partly => report.warning(finding.requirement, finding.why, finding.mend),
            Met::No => report.wrong(finding.requirement, finding.why, finding.mend),
        }
    }
    report
}
