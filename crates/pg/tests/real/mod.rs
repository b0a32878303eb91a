//! A real server: HEADWATER_TEST_PG_PORT says where. It listens on 127.0.0.1, lets `postgres` in by trust and has
//! `wal_level = logical` and `max_prepared_transactions > 0`.

// Each test binary uses another part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use headwater_pg::snapshot_tables::SnapshotTable;
use headwater_pg::{ConnectSettings, CopySession, Frame, PgoutputOptions, Session, connect};
use headwater_pgoutput::{Column, Lsn, Message, RelationId, TableSchema, Tuple, read_copy_row};

use crate::fake::settings;

pub fn server(database: &str) -> ConnectSettings {
    let port = std::env::var("HEADWATER_TEST_PG_PORT").expect("needs a server").parse().expect("a port");
    ConnectSettings { user: "postgres".to_owned(), database: database.to_owned(), ..settings(port) }
}

/// An empty database of its own for one test.
pub async fn database(name: &str) -> ConnectSettings {
    let client = connect(&server("postgres")).await.expect("connected");
    let name = format!("headwater_pg_{name}");
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("dropped");
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("created");
    server(&name)
}

/// The values of a row; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

pub fn row(tuple: &Tuple<'_>) -> Row {
    tuple
        .columns()
        .map(|column| match column {
            Column::Null => None,
            Column::Text(text) => Some(text.to_vec()),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub fn texts(values: &[&str]) -> Row {
    values.iter().map(|value| Some(value.as_bytes().to_vec())).collect()
}

/// Runs a COPY; its rows.
pub async fn copy(session: &mut CopySession, sql: &str, columns: usize) -> Vec<Row> {
    session.copy_out(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let (mut found, mut buffer) = (Vec::new(), Vec::new());
    while let Some(rows) = session.next_rows().await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
        for bytes in rows.rows() {
            let tuple = read_copy_row(bytes, columns as u16, &mut buffer).expect("a row");
            found.push(row(&tuple));
        }
    }
    found
}

/// All rows of a table, in no order.
pub async fn copy_table(session: &mut CopySession, table: &SnapshotTable) -> Vec<Row> {
    let mut rows = Vec::new();
    for leaf in &table.leaves {
        let sql = table.copy_pages(leaf, None, None);
        rows.extend(copy(session, &sql, table.table.columns.len()).await);
    }
    rows.sort();
    rows
}

/// Everything that a slot has from its start to a position: per table its last Relation message and its new rows.
pub async fn stream(
    settings: &ConnectSettings,
    slot: &str,
    publication: &str,
    end: Lsn,
) -> Vec<(TableSchema, Vec<Row>)> {
    let session = Session::connect(settings).await.expect("connected");
    let options = PgoutputOptions { publications: vec![publication.to_owned()], messages: false };
    let mut stream = session.start_replication(slot, Lsn(0), &options).await.expect("started");
    let mut tables: BTreeMap<RelationId, (TableSchema, Vec<Row>)> = BTreeMap::new();
    let mut reached = Lsn(0);
    while reached < end {
        for frame in stream.recv().await.expect("frames").frames() {
            match frame {
                Frame::Keepalive { wal_end, .. } => reached = reached.max(wal_end),
                Frame::XLogData { data, .. } => match Message::decode(data).expect("a message") {
                    Message::Relation(table) => {
                        let (_, rows) = tables.remove(&table.id).unwrap_or((table.clone(), Vec::new()));
                        tables.insert(table.id, (table, rows));
                    }
                    Message::Insert(insert) => {
                        tables.get_mut(&insert.relation).expect("a table").1.push(row(&insert.new));
                    }
                    Message::Commit(commit) => reached = reached.max(commit.end_lsn),
                    _ => {}
                },
            }
        }
    }
    stream.finish().await.expect("finished");
    let mut tables: Vec<_> = tables.into_values().collect();
    tables.iter_mut().for_each(|(_, rows)| rows.sort());
    tables.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    tables
}
