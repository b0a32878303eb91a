//! What a session of ours waits for when it stands still: which lock, and whose.
//!
//! Even reading the catalog can wait: `pg_publication_tables`, `pg_relation_size` and `pg_get_expr` take ACCESS SHARE
//! locks on the tables that they look at, and so stand behind every ALTER TABLE, VACUUM FULL or LOCK of them, and
//! behind one that itself only waits.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::settings::ConnectSettings;
use crate::{Client, Error, connect};

/// How long a session may stand still before somebody looks why, and the time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Holders that are named in one sentence.
const HOLDERS_TOLD: usize = 3;

/// A lock that a session does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// The session that waits.
    pub pid: i32,
    /// The table as `schema.table`, or what else it is.
    pub on: String,
    /// Who has it, or stands before us in its queue.
    pub holders: Vec<Holder>,
}

/// Who makes others wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process; 0 for a prepared transaction.
    pub pid: i32,
    /// Its role.
    pub user: String,
    /// What it says it is.
    pub application: String,
    /// `pg_stat_activity.state`; empty where it is hidden from this role.
    pub state: String,
    /// The first words of its statement, which hold no values.
    pub statement: String,
    /// Age of its transaction.
    pub age_seconds: Option<u64>,
    /// It waits for a lock itself.
    pub waits: bool,
}

impl fmt::Display for LockWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a lock on {}, behind ", self.on)?;
        for (n, holder) in self.holders.iter().take(HOLDERS_TOLD).enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{holder}")?;
        }
        match self.holders.len().saturating_sub(HOLDERS_TOLD) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("a prepared transaction (pg_prepared_xacts)");
        }
        write!(f, "pid {}", self.pid)?;
        let mut facts = Vec::new();
        for (name, value) in [("role", &self.user), ("application", &self.application)] {
            if !value.is_empty() {
                facts.push(format!("{name} {value}"));
            }
        }
        if !self.statement.is_empty() {
            facts.push(self.statement.clone());
        }
        if self.waits {
            facts.push("waits for a lock itself".to_owned());
        } else if !self.state.is_empty() {
            facts.push(self.state.clone());
        }
        if let Some(age) = self.age_seconds {
            facts.push(format!("for {age} s"));
        }
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

/// Of a statement only the first two words: what follows may be somebody's values.
const LOCK_WAITS: &str = "
    SELECT w.pid,
           CASE WHEN c.oid IS NOT NULL THEN n.nspname || '.' || c.relname
                ELSE 'a ' || w.locktype END,
           b.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
           coalesce(upper(substring(a.query FROM '^\\s*([A-Za-z]+(?:\\s+[A-Za-z]+)?)\\M')), ''),
           extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint,
           coalesce(a.wait_event_type = 'Lock', false)
      FROM pg_catalog.pg_locks w
     CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) b (pid)
      LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
      LEFT JOIN pg_catalog.pg_class c
        ON c.oid = w.relation
       AND w.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT w.granted AND w.pid = ANY ($1::int[])
     ORDER BY w.pid, b.pid";

/// The locks that these sessions wait for now.
pub async fn lock_waits(client: &Client, pids: &[i32]) -> Result<Vec<LockWait>, Error> {
    let mut waits: Vec<LockWait> = Vec::new();
    for row in client.query(LOCK_WAITS, &[&pids]).await? {
        let (pid, on): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
        let holder = Holder {
            pid: row.try_get(2)?,
            user: row.try_get(3)?,
            application: row.try_get(4)?,
            state: row.try_get(5)?,
            statement: row.try_get(6)?,
            age_seconds: row.try_get::<_, Option<i64>>(7)?.map(|age| age.max(0).unsigned_abs()),
            waits: row.try_get(8)?,
        };
        match waits.last_mut().filter(|wait| wait.pid == pid) {
            Some(wait) if wait.holders.contains(&holder) => {}
            Some(wait) => wait.holders.push(holder),
            None => waits.push(LockWait { pid, on, holders: vec![holder] }),
        }
    }
    Ok(waits)
}

/// Does `work`, a matter of the sessions `pids`, and tells which lock they wait for while it stands still: after two
/// seconds, and again when that changes. The telling ends with `None`, if there was any.
///
/// It looks over a connection of its own, which is opened only then. Cancel-safe if `work` is.
pub async fn telling_locks<T>(
    settings: &ConnectSettings,
    pids: &[i32],
    mut tell: impl FnMut(Option<&LockWait>),
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut told: Option<(String, Vec<i32>)> = None;
    let mut client = None;
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                if told.is_some() {
                    tell(None);
                }
                return done;
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        // The work goes on while it is looked at.
        let look = look(settings, &mut client, pids);
        let found = tokio::select! {
            biased;
            done = &mut work => {
                if told.is_some() {
                    tell(None);
                }
                return done;
            }
            found = look => found,
        };
        if let Some(wait) = found {
            let same = (wait.on.clone(), wait.holders.iter().map(|holder| holder.pid).collect());
            if told.as_ref() != Some(&same) {
                tell(Some(&wait));
                told = Some(same);
            }
        }
    }
}

/// None also when it can't be looked at: whoever waits will hear of that by himself.
async fn look(settings: &ConnectSettings, client: &mut Option<Client>, pids: &[i32]) -> Option<LockWait> {
    let open = match client.take().filter(|client| !client.is_closed()) {
        Some(open) => open,
        None => connect(settings).await.ok()?,
    };
    let found = lock_waits(&open, pids).await;
    *client = Some(open);
    found.ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_a_sentence() {
        let holder = |pid| Holder {
            pid,
            user: "app".to_owned(),
            application: String::new(),
            state: "idle in transaction".to_owned(),
            statement: "ALTER TABLE".to_owned(),
            age_seconds: Some(7),
            waits: false,
        };
        let check = |holders: Vec<Holder>, wanted: &str| {
            let wait = LockWait { pid: 1, on: "public.items".to_owned(), holders };
            assert_eq!(wait.to_string(), format!("a lock on public.items, behind {wanted}"));
        };
        let whole = "(role app, ALTER TABLE, idle in transaction, for 7 s)";
        check(vec![holder(5)], &format!("pid 5 {whole}"));
        check(vec![holder(0)], "a prepared transaction (pg_prepared_xacts)");
        let waits = Holder { waits: true, age_seconds: None, user: String::new(), ..holder(6) };
        check(vec![waits], "pid 6 (ALTER TABLE, waits for a lock itself)");
        let hidden =
            Holder { state: String::new(), statement: String::new(), age_seconds: None, ..holder(7) };
        check(vec![hidden], "pid 7 (role app)");
        check(
            (1..=5).map(holder).collect(),
            &format!("pid 1 {whole}, pid 2 {whole}, pid 3 {whole} and 2 more"),
        );
    }
}
