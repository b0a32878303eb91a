//! Which columns are a record's key and which choose its partition, by configuration. Pure.
//!
//! The description says what the table itself has for a key. A configured one must be in every old row as well: a
//! delete whose key was made up would delete something else, or nothing.

use headwater_avro::{KeylessKey, RecordSettings, TableDescription};

use crate::halt::{ExitCode, Halt};

/// Puts the configured key in the place of the table's own.
pub(crate) fn apply_key(table: &mut TableDescription, records: &RecordSettings) -> Result<(), Halt> {
    let chosen = &records.message_key_columns.0;
    if !chosen.is_empty() {
        table.key = positions(table, chosen, "message_key_columns")?;
        return check_identity(table);
    }
    if table.key.is_empty() && records.keyless_key == KeylessKey::FullRow {
        table.key = (0..table.columns.len()).collect();
    }
    Ok(())
}

/// The columns that choose the partition; empty where the whole key does, or nothing.
pub(crate) fn partition_columns(
    table: &TableDescription,
    records: &RecordSettings,
) -> Result<Vec<usize>, Halt> {
    let columns = positions(table, &records.partition_columns.0, "partition_columns")?;
    let outside = columns.iter().find(|at| !table.key.is_empty() && !table.key.contains(at));
    match outside {
        None => Ok(columns),
        Some(at) => Err(Halt::new(
            ExitCode::TableUnsuitable,
            format!(
                "partition_columns of {} names {}, which is not in its key: one key would be in several partitions",
                name(table),
                table.columns[*at].name
            ),
            "name columns of the key only, or choose the key with message_key_columns",
        )),
    }
}

/// An old row carries its identity. Where there is none, rows can only be inserted.
fn check_identity(table: &TableDescription) -> Result<(), Halt> {
    if table.columns.iter().all(|column| !column.in_identity) {
        return Ok(());
    }
    match table.key.iter().find(|at| !table.columns[**at].in_identity) {
        None => Ok(()),
        Some(at) => Err(Halt::new(
            ExitCode::TableUnsuitable,
            format!(
                "message_key_columns of {} names {}, which an old row does not carry: deletes would have no key",
                name(table),
                table.columns[*at].name
            ),
            format!(
                "ALTER TABLE {} REPLICA IDENTITY FULL, or USING INDEX one that has the column",
                name(table)
            ),
        )),
    }
}

fn positions(table: &TableDescription, names: &[String], setting: &str) -> Result<Vec<usize>, Halt> {
    let position = |wanted: &String| {
        table.columns.iter().position(|column| column.name == *wanted).ok_or_else(|| {
            Halt::new(
                ExitCode::TableUnsuitable,
                format!("{setting} of {} names {wanted}, which it does not publish", name(table)),
                format!("correct {setting} for this table under [[table]], or publish the column"),
            )
        })
    };
    names.iter().map(position).collect()
}

fn name(table: &TableDescription) -> String {
    format!("{}.{}", table.schema, table.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_avro::{ColumnDescription, ColumnList, PgType};
    use headwater_pgoutput::{RelationId, ReplicaIdentity};

    /// Columns a, b, c; those in `identity` are in an old row, `key` is the table's own key.
    fn table(identity: &str, key: &[usize]) -> TableDescription {
        let column = |name: &str| ColumnDescription {
            name: name.to_owned(),
            type_name: "integer".to_owned(),
            pg_type: PgType::Int4,
            not_null: true,
            default: None,
            in_identity: identity.contains(name),
            declared: None,
            key_labels: None,
        };
        TableDescription {
            relation: RelationId(1),
            schema: "public".to_owned(),
            table: "t".to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: ["a", "b", "c"].map(column).into(),
            key: key.to_vec(),
        }
    }

    fn list(names: &str) -> ColumnList {
        ColumnList(names.chars().map(String::from).collect())
    }

    #[test]
    fn keys_as_configured() {
        use KeylessKey::{FullRow, None};
        for (identity, own, chosen, keyless, expected) in [
            ("a", &[0][..], "", FullRow, Ok(&[0][..])),
            ("", &[], "", None, Ok(&[])),
            ("", &[], "", FullRow, Ok(&[0, 1, 2])),
            ("abc", &[0], "cb", None, Ok(&[2, 1])),
            ("", &[], "b", None, Ok(&[1])),
            ("a", &[0], "b", None, Err("names b, which an old row does not carry")),
            ("a", &[0], "x", None, Err("names x, which it does not publish")),
        ] {
            let records = RecordSettings {
                message_key_columns: list(chosen),
                keyless_key: keyless,
                ..RecordSettings::default()
            };
            let mut table = table(identity, own);
            match (apply_key(&mut table, &records), expected) {
                (Ok(()), Ok(key)) => assert_eq!(table.key, key, "{chosen}"),
                (Err(halt), Err(words)) => assert!(halt.what.contains(words), "{halt}"),
                (result, _) => panic!("{chosen}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_key_stays_in_one_partition() {
        for (key, chosen, expected) in [
            (&[][..], "b", Ok(vec![1])),
            (&[0, 1], "b", Ok(vec![1])),
            (&[0], "", Ok(vec![])),
            (&[0], "b", Err("which is not in its key")),
            (&[0], "x", Err("which it does not publish")),
        ] {
            let records = RecordSettings { partition_columns: list(chosen), ..RecordSettings::default() };
            match (partition_columns(&table("a", key), &records), expected) {
                (Ok(columns), Ok(expected)) => assert_eq!(columns, expected),
                (Err(halt), Err(words)) => assert!(halt.what.contains(words), "{halt}"),
                (result, _) => panic!("{chosen}: {result:?}"),
            }
        }
    }
}
