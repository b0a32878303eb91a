//! The pump's side of signals: which rows of the stream are some, and how they leave it.
//!
//! In: rows that were inserted into the table of signals. Out: their texts, for the task that reads them. As in
//! Debezium the columns count by their order: id, verb, data. The rows are records of their table's topic as well,
//! unless that is left out.

use headwater_pgoutput::{Column, Lsn, RelationId, TableSchema, Tuple};
use tokio::sync::mpsc::UnboundedSender;

use super::requests::RowPlace;
use crate::settings::SignalSettings;

/// A row of the table of signals.
#[derive(Debug)]
pub(crate) struct SignalRow {
    pub(crate) place: RowPlace,
    /// Its transaction in the ack tracker, which waits for it.
    pub(crate) sequence: u32,
    pub(crate) id: Option<String>,
    pub(crate) verb: Option<String>,
    pub(crate) data: Option<String>,
}

/// Owned by the pump.
pub(crate) struct SignalRows {
    settings: SignalSettings,
    relation: Option<RelationId>,
    rows: UnboundedSender<SignalRow>,
    /// Where the last one was.
    last: Option<RowPlace>,
}

impl SignalRows {
    pub(crate) fn new(settings: SignalSettings, rows: UnboundedSender<SignalRow>) -> SignalRows {
        SignalRows { settings, relation: None, rows, last: None }
    }

    /// A Relation message came.
    pub(crate) fn announced(&mut self, table: &TableSchema) {
        if self.settings.is_table(&table.namespace, &table.name) {
            self.relation = Some(table.id);
        } else if self.relation == Some(table.id) {
            // It was given another name.
            self.relation = None;
        }
    }

    /// Whether rows of this relation are signals.
    #[inline]
    pub(crate) fn is_table(&self, relation: RelationId) -> bool {
        self.relation == Some(relation)
    }

    /// Takes a row. A pump that goes on alone at the end of a session has nobody to give it to: its transaction stays
    /// unconfirmed then, and it comes again.
    pub(crate) fn take(&mut self, commit_lsn: Lsn, sequence: u32, new: &Tuple<'_>) {
        let row = match self.last {
            Some(last) if last.commit_lsn == commit_lsn => last.row + 1,
            _ => 0,
        };
        let place = RowPlace { commit_lsn, row };
        self.last = Some(place);
        let text = |at: usize| match new.column(at) {
            Some(Column::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        let signal = SignalRow { place, sequence, id: text(0), verb: text(1), data: text(2) };
        drop(self.rows.send(signal));
    }
}
