//! What was written of a table since it was last told, and the telling.

use crate::outlet::Outlet;
use crate::table_cache::{Form, TablePlan};

/// Records offered since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) create: u64,
    pub(crate) read: u64,
    pub(crate) update: u64,
    pub(crate) delete: u64,
    pub(crate) tombstone: u64,
    pub(crate) truncate: u64,
    pub(crate) outbox_update: u64,
    pub(crate) outbox_delete: u64,
    pub(crate) left_out: u64,
    /// Changes of rows that no filter lets pass.
    pub(crate) filtered: u64,
    /// Deletes that flat records leave out.
    pub(crate) flat_delete: u64,
}

/// Adds a plan's counts to metrics and status, and starts them anew.
pub(crate) fn count(out: &Outlet, plan: &mut TablePlan) {
    let Counts {
        create,
        read,
        update,
        delete,
        tombstone,
        truncate,
        outbox_update,
        outbox_delete,
        left_out,
        filtered,
        flat_delete,
    } = std::mem::take(&mut plan.counts);
    let create_op = if matches!(plan.form, Form::Event(..)) { "event" } else { "c" };
    for (op, records) in [
        (create_op, create),
        ("r", read),
        ("u", update),
        ("d", delete),
        ("t", truncate),
        ("tombstone", tombstone),
    ] {
        if records > 0 {
            out.metrics().records.with_label_values(&[plan.name.as_str(), op]).inc_by(records);
            out.status().count(&plan.name, op, records);
        }
    }
    for (reason, changes) in [
        ("outbox_update", outbox_update),
        ("outbox_delete", outbox_delete),
        ("left_out", left_out),
        ("filter", filtered),
        ("flat_delete", flat_delete),
    ] {
        if changes > 0 {
            out.metrics().skipped.with_label_values(&[plan.name.as_str(), reason]).inc_by(changes);
        }
    }
}
