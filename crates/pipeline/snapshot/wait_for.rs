//! Transactions that have to end before a table can be copied.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::control::Asked;
use super::coordinator::Coordinator;
use crate::backoff::Backoff;
use crate::error::StageError;

/// Time between two looks at transactions that have to end first.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long they may take before that is said.
const TOLD_AFTER: Duration = Duration::from_secs(2);

impl Coordinator {
    /// One of these transactions that is not over.
    async fn one_that_runs(&mut self, ids: &[String]) -> Result<Option<String>, StageError> {
        // Also one that no list of running transactions names, because none after it has ended.
        let sql = "SELECT x FROM unnest($1::text[]) x
                    WHERE NOT pg_catalog.pg_visible_in_snapshot(x::xid8, pg_catalog.pg_current_snapshot()) LIMIT 1";
        let looking = "looking for transactions that a chunk waits for";
        let row = self.client().await?.query_opt(sql, &[&ids]).await;
        let row = row.map_err(|error| StageError::Postgres { doing: looking, source: error.into() })?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Waits until these transactions are over, or a command ends the copy.
    pub(crate) async fn wait_for(
        &mut self,
        at: usize,
        after: &[u64],
        asked: &mut mpsc::Receiver<Asked>,
    ) -> Result<(), StageError> {
        let began = Instant::now();
        let mut told = false;
        let mut backoff = Backoff::new();
        let ids: Vec<String> = after.iter().map(u64::to_string).collect();
        loop {
            let running = match self.one_that_runs(&ids).await {
                // The next look says.
                Err(StageError::Postgres { source, .. }) if source.is_transient() => {
                    self.wait_to_retry(at, &mut backoff, &source, asked).await?;
                    if self.goes_on(at) {
                        continue;
                    }
                    break;
                }
                running => running?,
            };
            self.tell_retried(at, &backoff);
            backoff = Backoff::new();
            let Some(xid) = running else { break };
            if began.elapsed() > TOLD_AFTER {
                let reason = format!(
                    "transaction {xid}, which was open when the copy of this table began, has to end first"
                );
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("the snapshot waits: {reason}");
                }
                self.tell_waiting(Some(reason));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            self.obey_waiting(asked).await?;
            if !self.goes_on(at) {
                break;
            }
        }
        if told {
            tracing::info!("the snapshot goes on");
        }
        self.tell_waiting(None);
        Ok(())
    }
}
