//! Rows read back on a real server, any version from 14 to 18; run as `server.rs` is.

mod fake;

use std::time::Duration;

use fake::settings;
use headwater_pg::read_back::{ReadBack, ReadRow, ReadRows, Unreadable, prepare, read_back};
use headwater_pg::{Client, ConnectSettings, connect};
use headwater_pgoutput::RelationId;

fn server(database: &str) -> ConnectSettings {
    let port = std::env::var("HEADWATER_TEST_PG_PORT").expect("needs a server").parse().expect("a port");
    ConnectSettings { user: "postgres".to_owned(), database: database.to_owned(), ..settings(port) }
}

/// Two connections to an empty database of its own: one that writes, and one that is prepared for reading back.
async fn connections(name: &str) -> (Client, Client) {
    let client = connect(&server("postgres")).await.expect("connected");
    let name = format!("headwater_pg_{name}");
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("dropped");
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("created");
    let (writer, reader) = (connect(&server(&name)).await, connect(&server(&name)).await);
    let (writer, reader) = (writer.expect("connected"), reader.expect("connected"));
    prepare(&reader, Duration::from_millis(300)).await.expect("prepared");
    (writer, reader)
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Runs statements in a transaction and tells its id, as WAL has it.
async fn transaction(client: &Client, sql: &str) -> u32 {
    run(client, &format!("BEGIN; {sql}")).await;
    let row = client.query_one("SELECT txid_current() & 4294967295", &[]).await.expect("a row");
    run(client, "COMMIT").await;
    u32::try_from(row.get::<_, i64>(0)).expect("32 bits")
}

async fn wanted(client: &Client, table: &str, key: &[&str], rows: &[(&[&str], u32)]) -> ReadBack {
    let row = client.query_one(&format!("SELECT '{table}'::regclass::oid"), &[]).await.expect("a row");
    let text = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    ReadBack {
        relation: RelationId(row.get(0)),
        table: ("public".to_owned(), table.to_owned()),
        key: text(key),
        columns: text(&["body"]),
        rows: rows.iter().map(|(key, xid)| (text(key), *xid)).collect(),
        slot: "nobody".to_owned(),
        publications: vec!["all".to_owned()],
        newer: true,
        bytes_max: 1 << 20,
        row_bytes_max: 1 << 20,
    }
}

async fn read(client: &Client, wanted: &ReadBack) -> Result<ReadRows, Unreadable> {
    read_back(client, wanted, Duration::from_secs(5)).await.expect("answered")
}

/// One word per row: `own:text`, `other:text`, `gone` and so on, and `!` behind it if the column isn't proved.
fn shown(rows: &ReadRows) -> Vec<String> {
    let proved = if rows.same_column == [true] { "" } else { "!" };
    let word = |row: &ReadRow| match row {
        ReadRow::NotRead => "not read".to_owned(),
        ReadRow::Gone => "gone".to_owned(),
        ReadRow::Newer => "newer".to_owned(),
        ReadRow::TooLarge => "too large".to_owned(),
        ReadRow::NotVisible => "not visible".to_owned(),
        ReadRow::Found { own, values } => {
            format!(
                "{}:{}{proved}",
                if *own { "own" } else { "other" },
                values[0].as_deref().unwrap_or("NULL")
            )
        }
    };
    rows.rows.iter().map(word).collect()
}

async fn check(client: &Client, wanted: &ReadBack, expected: &[&str]) {
    let rows = read(client, wanted).await.expect("readable");
    assert_eq!(shown(&rows), expected, "{wanted:?}");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn rows_and_who_wrote_them() {
    let (writer, reader) = connections("read_back").await;
    run(&writer, "CREATE TABLE t (a int, b text, body text, PRIMARY KEY (a, b)); CREATE PUBLICATION \"all\" FOR ALL TABLES").await;
    let first =
        transaction(&writer, "INSERT INTO t VALUES (1, 'it''s', 'x'), (2, E'\\\\', NULL), (3, '', 'z')")
            .await;
    let second = transaction(&writer, "UPDATE t SET body = 'newer' WHERE a = 1").await;
    let savepoint = transaction(
        &writer,
        "SELECT txid_current(); SAVEPOINT s; UPDATE t SET body = 'sub' WHERE a = 3; RELEASE s",
    )
    .await;
    let rows: &[(&[&str], u32)] = &[
        (&["1", "it's"], first),
        (&["1", "it's"], second),
        (&["2", "\\"], first),
        (&["3", ""], savepoint),
        (&["4", ""], first),
        // One that is to come.
        (&["3", ""], savepoint + 1000),
    ];
    let mut asked = wanted(&writer, "t", &["a", "b"], rows).await;
    check(&reader, &asked, &["other:newer", "own:newer", "own:NULL", "other:sub", "gone", "not visible"])
        .await;
    assert!(read(&reader, &asked).await.expect("readable").inserts_published);
    asked.bytes_max = 7;
    check(&reader, &asked, &["other:newer", "not read", "own:NULL", "not read", "gone", "not visible"]).await;
    asked.newer = false;
    check(&reader, &asked, &["newer", "own:newer", "own:NULL", "newer", "gone", "not visible"]).await;
    asked.newer = true;
    asked.row_bytes_max = 4;
    check(&reader, &asked, &["too large", "too large", "own:NULL", "other:sub", "gone", "not visible"]).await;

    run(&writer, "CREATE TABLE child () INHERITS (t); INSERT INTO child VALUES (9, '', 'not of t')").await;
    let child = wanted(&writer, "t", &["a", "b"], &[(&["9", ""], first)]).await;
    check(&reader, &child, &["gone"]).await;
    run(&writer, "ALTER PUBLICATION \"all\" SET (publish = 'update')").await;
    assert!(!read(&reader, &child).await.expect("readable").inserts_published);
}

/// A transaction that is still open, and one of the same 32 bits of long ago, which a far number stands for.
#[tokio::test]
#[ignore = "needs a server"]
async fn what_nobody_sees_yet() {
    let (writer, reader) = connections("read_back_open").await;
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 'before')").await;
    run(&writer, "BEGIN; UPDATE t SET body = 'after'").await;
    let row = writer.query_one("SELECT txid_current() & 4294967295", &[]).await.expect("a row");
    let xid = u32::try_from(row.get::<_, i64>(0)).expect("32 bits");
    let asked = wanted(&writer, "t", &["id"], &[(&["1"], xid), (&["1"], 3)]).await;
    check(&reader, &asked, &["not visible", "other:before"]).await;
    run(&writer, "COMMIT").await;
    check(&reader, &asked, &["own:after", "other:after"]).await;
}

#[tokio::test]
#[ignore = "needs a server"]
async fn columns_and_tables_of_another_time() {
    let (writer, reader) = connections("read_back_ddl").await;
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY, body text, more text)").await;
    let xid = transaction(&writer, "INSERT INTO t VALUES (1, 'x', 'y')").await;
    let asked = wanted(&writer, "t", &["id"], &[(&["1"], xid)]).await;
    let changed = async |sql: &str, expected: Result<&str, Unreadable>| {
        run(&writer, sql).await;
        let found = read(&reader, &asked).await.map(|rows| shown(&rows).concat());
        assert_eq!(found, expected.map(str::to_owned), "{sql}");
    };
    changed("ALTER TABLE t ADD COLUMN third text", Ok("own:x")).await;
    changed("ALTER TABLE t RENAME TO gone", Err(Unreadable::Changed)).await;
    changed("CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 'not it')", Ok("gone"))
        .await;
    changed("DROP TABLE t; ALTER TABLE gone RENAME TO t", Ok("own:x")).await;
    changed("ALTER TABLE t DROP COLUMN body", Err(Unreadable::Changed)).await;
    changed("ALTER TABLE t ADD COLUMN body text DEFAULT 'new'", Ok("own:new!")).await;
    changed("ALTER TABLE t DROP COLUMN body; ALTER TABLE t RENAME more TO body", Ok("own:y!")).await;
    // A slot whose catalog_xmin has passed the change proves the column again; another slot would hold it back.
    let mut later = asked.clone();
    later.slot = "headwater_read_back".to_owned();
    run(&writer, "SELECT pg_create_logical_replication_slot('headwater_read_back', 'pgoutput')").await;
    let row = writer.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.expect("a row");
    if row.get::<_, i64>(0) == 1 {
        check(&reader, &later, &["own:y"]).await;
    }
    run(&writer, "SELECT pg_drop_replication_slot('headwater_read_back')").await;
    run(&writer, "ALTER TABLE t ALTER id TYPE uuid USING gen_random_uuid()").await;
    assert_eq!(read(&reader, &asked).await.map(drop), Err(Unreadable::Changed));
    // The connection is as it was.
    run(&writer, "BEGIN; LOCK TABLE t").await;
    let uuid = "00000000-0000-0000-0000-000000000000";
    let asked = wanted(&writer, "t", &["id"], &[(&[uuid], xid)]).await;
    assert_eq!(read(&reader, &asked).await.map(drop), Err(Unreadable::Timeout));
    run(&writer, "COMMIT").await;
    check(&reader, &asked, &["gone"]).await;
}

#[tokio::test]
#[ignore = "needs a server"]
async fn partitions_and_types_of_extensions() {
    let (writer, reader) = connections("read_back_parts").await;
    run(
        &writer,
        "CREATE TABLE t (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
         CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
    )
    .await;
    let xid = transaction(&writer, "INSERT INTO t VALUES (1, 'x')").await;
    for table in ["t", "t_1"] {
        check(&reader, &wanted(&writer, table, &["id"], &[(&["1"], xid)]).await, &["own:x"]).await;
    }
    if writer
        .batch_execute("CREATE SCHEMA \"odd 's\"; CREATE EXTENSION citext SCHEMA \"odd 's\"")
        .await
        .is_err()
    {
        return;
    }
    run(&writer, "CREATE TABLE c (id \"odd 's\".citext PRIMARY KEY, body text)").await;
    let xid = transaction(&writer, "INSERT INTO c SELECT 'K' || g, g FROM generate_series(1, 20000) g").await;
    let asked = wanted(&writer, "c", &["id"], &[(&["K77"], xid), (&["k77"], xid)]).await;
    check(&reader, &asked, &["own:77", "gone"]).await;
    let scans = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'c'";
    if writer.server_version() >= 150_000 {
        run(&reader, "SELECT pg_stat_force_next_flush()").await;
        let row = writer.query_one(scans, &[]).await.expect("a row");
        assert!(row.get::<_, i64>(0) > 0, "the key's index was not used");
    }
}
