//! A row's key as a JSON object of texts, for people and for finding the row again: `{"id":"17"}`.

use headwater_pgoutput::{Column, Tuple};

use crate::description::TableDescription;
use crate::error::SchemaError;
use crate::json::write_string;
use crate::mask::{self, Masking};
use crate::record_settings::RecordSettings;
use crate::schema;

/// Which columns they are, and what hides them.
#[derive(Debug, Clone, Default)]
pub struct KeyTexts(Vec<KeyText>);

#[derive(Debug, Clone)]
struct KeyText {
    at: usize,
    name: String,
    masking: Option<Masking>,
}

impl KeyTexts {
    /// Those of these columns of a table.
    ///
    /// # Errors
    /// [`SchemaError`] if a mask has no form for its column.
    pub fn new(
        table: &TableDescription,
        columns: &[usize],
        records: &RecordSettings,
    ) -> Result<KeyTexts, SchemaError> {
        let text = |at: &usize| {
            let column = &table.columns[*at];
            let masking = match records.masks.of(&column.name) {
                None => None,
                Some(mask) => {
                    let masking = Masking::new(mask, &column.pg_type, &records.mask_salt);
                    Some(masking.ok_or_else(|| SchemaError::MaskOfType {
                        table: schema::full_name(table),
                        column: column.name.clone(),
                        type_name: column.type_name.clone(),
                    })?)
                }
            };
            Ok(KeyText { at: *at, name: column.name.clone(), masking })
        };
        columns.iter().map(text).collect::<Result<_, _>>().map(KeyTexts)
    }

    /// The table has no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the key of a row; what it leaves out as unchanged is taken from the old one.
    pub fn write(&self, row: &Tuple<'_>, old: Option<&Tuple<'_>>, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, KeyText { at, name, masking }) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_string(name.as_bytes(), out);
            out.push(b':');
            let column = match row.column(*at) {
                Some(Column::Unchanged) => old.and_then(|old| old.column(*at)),
                column => column,
            };
            let shown = match (column, masking) {
                (Some(Column::Text(text)), None) => Some(text.to_vec()),
                (Some(Column::Text(text)), Some(masking)) => mask::masked_text(masking, text),
                _ => None,
            };
            match shown {
                Some(text) => write_string(&text, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
    }
}
