//! What is needed of a table to set one of its rows aside: the key as text, the row as a line, and by what an outbox row
//! is told.

use std::sync::Arc;

use headwater_avro::{KeyTexts, LinePlan, OnError, RecordSettings, TableDescription};
use headwater_pgoutput::{Column, Tuple};

use crate::error::StageError;
use crate::present;
use crate::row_writer::Row;
use crate::sent::SentEvent;
use crate::versions::Versions;

/// Of one table whose rows may be set aside.
#[derive(Debug)]
pub(crate) struct AsidePlan {
    pub(crate) on_error: OnError,
    pub(crate) key: KeyTexts,
    pub(crate) lines: LinePlan,
    /// Of an outbox with a status.
    pub(crate) life: Option<AsideLife>,
}

/// The columns by which a row of an outbox is told that its event was set aside.
#[derive(Debug)]
pub(crate) struct AsideLife {
    /// The table, `schema.table`.
    pub(crate) table: Arc<str>,
    pub(crate) id: usize,
    pub(crate) status: usize,
    pub(crate) attempt: usize,
}

impl AsideLife {
    /// The sending that failed, if the row is one that was to be sent.
    pub(crate) fn failed(&self, changed: &Row<'_>) -> Option<SentEvent> {
        let (Row::Inserted(row) | Row::Read(row)) = changed else { return None };
        let text = |at: usize| match row.column(at)? {
            Column::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        if text(self.status)? != "NEW" {
            return None;
        }
        let attempt = text(self.attempt)?.parse().ok()?;
        Some(SentEvent { table: self.table.clone(), id: text(self.id)?.into(), attempt })
    }
}

/// The texts of a row's key, and of the one that it had before if that is another.
pub(crate) fn keys_of(aside: &AsidePlan, changed: &Row<'_>) -> (Option<String>, Option<String>) {
    let text = |row: &Tuple<'_>, old: Option<&Tuple<'_>>| {
        let mut out = Vec::new();
        aside.key.write(row, old, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    if aside.key.is_empty() {
        return (None, None);
    }
    match changed {
        Row::Inserted(new) | Row::Read(new) => (Some(text(new, None)), None),
        Row::Deleted(old) => (Some(text(old.tuple(), None)), None),
        Row::Truncated => (None, None),
        Row::Updated(None, new) => (Some(text(new, None)), None),
        Row::Updated(Some(old), new) => {
            let (new, old) = (text(new, Some(old.tuple())), text(old.tuple(), None));
            if new == old { (Some(new), None) } else { (Some(new), Some(old)) }
        }
    }
}

impl Versions {
    /// How rows are set aside; none if they are not.
    pub(crate) fn aside(
        &self,
        description: &TableDescription,
        records: &RecordSettings,
    ) -> Result<Option<Box<AsidePlan>>, StageError> {
        let on_error = records.on_error;
        if on_error == OnError::Halt {
            return Ok(None);
        }
        let name = format!("{}.{}", description.schema, description.table);
        let schema_error = |source| StageError::Schema { table: name.clone(), source };
        let outbox = self
            .settings
            .outbox
            .iter()
            .find(|outbox| outbox.schema == description.schema && outbox.table == description.table);
        let (columns, lines) = match outbox {
            // All of the row, so that it can be written again.
            Some(outbox) => {
                let columns = &description.columns;
                let key = columns.iter().position(|column| column.name == outbox.aggregateid_column);
                (key.into_iter().collect(), LinePlan::whole(description))
            }
            None => {
                let keyed = present::keyed(&self.settings, description).map_err(StageError::Halt)?;
                (keyed.key, LinePlan::new(description, records).map_err(schema_error)?)
            }
        };
        let key = KeyTexts::new(description, &columns, records).map_err(schema_error)?;
        let life = outbox.filter(|outbox| outbox.status).and_then(|outbox| {
            let find = |name: &str| description.columns.iter().position(|column| column.name == name);
            // A table that lacks them is refused before its rows are looked at.
            let (id, status, attempt) = (find(&outbox.id_column)?, find("status")?, find("attempt")?);
            Some(AsideLife { table: name.as_str().into(), id, status, attempt })
        });
        Ok(Some(Box::new(AsidePlan { on_error, key, lines, life })))
    }
}
