//! On a real server, as `server`: a copied row is byte for byte the row that the stream sends of the same insert.

mod fake;
mod real;

use headwater_pg::snapshot_tables::snapshot_tables;
use headwater_pg::transaction_snapshot::begin_at_present;
use headwater_pg::{CopySession, Session, connect};
use real::{copy_table, database, stream};

const FIXTURE: &str = include_str!("../../../tests/fixtures/golden/1-before-snapshot.sql");

/// What would change how values look if it were not pinned.
const ODD_SETTINGS: &[&str] = &[
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Asia/Kathmandu'",
    "IntervalStyle = 'sql_standard'",
    "bytea_output = 'escape'",
    "extra_float_digits = -5",
    "quote_all_identifiers = on",
    "search_path = 'zoo, other'",
    "row_security = on",
    "synchronize_seqscans = on",
    "default_transaction_isolation = 'serializable'",
];

/// Types whose text depends on more than the value, and text that COPY escapes.
const MORE: &str = "
    CREATE SCHEMA other;
    CREATE TABLE other.\"Quoted \"\"name\" (id int PRIMARY KEY);
    CREATE TABLE zoo.more (
      id int PRIMARY KEY, c_char char(8), c_text text, c_bytea bytea, c_float4 float4, c_float8 float8, c_bool bool,
      c_inet inet, c_interval interval, c_timestamptz timestamptz, c_date date, c_money money, c_name name,
      c_regclass regclass, c_regtype regtype, c_regproc regproc, c_regnamespace regnamespace, c_tsvector tsvector,
      c_texts text[], c_inets inet[], c_bools bool[], c_chars char(3)[], c_xid8 xid8, c_tid tid, c_internal \"char\",
      c_record zoo.more_pair, c_jsonpath jsonpath, c_snapshot pg_snapshot, c_multirange datemultirange);
    INSERT INTO zoo.more SELECT n,
      'pad', e'tab\\tnew\\nline\\rreturn\\\\ back \\b\\f ' || chr(n) || ' é世界🦀 \\\\N \\\\.', decode('005c09ff', 'hex'),
      0.1::float4 + n, 0.1::float8 + 0.2, n % 2 = 0, ('10.0.0.' || n)::inet, '-1 year 2 mons -3 days 04:05:06.7',
      '2024-02-29 12:34:56.123456+02', '2024-02-29', 1234.5, repeat('é', 31), 'other.\"Quoted \"\"name\"'::regclass,
      'public.mood'::regtype, 'pg_catalog.now()'::regprocedure::oid::regproc, 'zoo'::regnamespace, 'a:1 ''b\\\\c'':2',
      ARRAY['', NULL, 'NULL', e'\\\\', '\"', ',', e'\\t'], ARRAY['::1/128'::inet], ARRAY[true, NULL], ARRAY['x'::char(3)],
      '123456789012', '(1,2)', e'\\\\200', ROW(n, e'a\\\\b\\t\"c')::zoo.more_pair, '$.\"a b\"', '10:20:10,14', '{[2024-01-01,2024-01-03)}'
      FROM generate_series(1, 127) n WHERE n <> 92;
    INSERT INTO zoo.more (id) VALUES (0);
    INSERT INTO zoo.more (id, c_text) VALUES (-1, ''), (-2, e'\\\\N'), (-3, e'\\\\'), (-4, e'\\t'), (-5, e'\\n'), (-6, e'\\\\.'),
      (-7, repeat(e'\\\\', 100000)), (-8, repeat('x', 3000000));
    CREATE TABLE zoo.no_columns ();
    INSERT INTO zoo.no_columns DEFAULT VALUES;
    CREATE TABLE zoo.altered (gone int, a text, b int, c int);
    ALTER TABLE zoo.altered DROP COLUMN gone, ADD COLUMN d text DEFAULT 'added';
    ALTER TABLE zoo.altered DROP COLUMN b;
    INSERT INTO zoo.altered VALUES ('x', 1), (NULL, NULL), ('', 0)";

#[tokio::test]
#[ignore = "needs a server"]
async fn a_copied_row_is_what_the_stream_sends() {
    let settings = database("copy_text").await;
    let client = connect(&settings).await.expect("connected");
    for setting in ODD_SETTINGS {
        let sql = format!("ALTER DATABASE {} SET {setting}", settings.database);
        client.batch_execute(&sql).await.expect(setting);
    }
    client.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.expect("published");
    let slot = "headwater_pg_copy_text";
    let mut session = Session::connect(&settings).await.expect("connected");
    let created = session.create_logical_slot(slot, false, false).await.expect("created");
    drop(session);
    client.batch_execute(FIXTURE).await.expect("the fixture runs");
    client.batch_execute("CREATE TYPE zoo.more_pair AS (a int, b text)").await.expect("created");
    client.batch_execute(MORE).await.expect("inserted");

    let mut session = CopySession::connect(&settings).await.expect("connected");
    let mark = begin_at_present(&mut session, &[]).await.expect("begun");
    assert!(mark.high > created.consistent_point);
    let streamed = stream(&settings, slot, "p", mark.high).await;
    let tables = snapshot_tables(&client, &["p".to_owned()]).await.expect("answered");
    let mut compared = 0;
    for table in &tables {
        let name = &table.table.name;
        let copied = copy_table(&mut session, table).await;
        let Some((schema, rows)) = streamed.iter().find(|(schema, _)| schema.id == table.table.id) else {
            assert_eq!(copied.len(), 0, "{name} was not streamed");
            continue;
        };
        assert_eq!(schema, &table.table, "{name}");
        assert_eq!(rows.len(), copied.len(), "{name}");
        for (row, copied) in rows.iter().zip(&copied) {
            for ((streamed, copied), column) in row.iter().zip(copied).zip(&schema.columns) {
                let show = |value: &Option<Vec<u8>>| {
                    value.as_ref().map(|value| value[..value.len().min(200)].escape_ascii().to_string())
                };
                assert_eq!(show(streamed), show(copied), "{name}.{}", column.name);
                assert!(streamed == copied, "{name}.{}", column.name);
            }
        }
        compared += rows.len();
    }
    let inserted: i64 = client.query_one(
        "SELECT sum((xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM ONLY %s', oid::regclass), false, false, '')))[1]::text::bigint)::bigint
           FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('zoo'::regnamespace, 'other'::regnamespace)", &[],
    ).await.expect("counted").get(0);
    assert_eq!(compared as i64, inserted, "every row of every table was compared");
    assert!(compared > 140 && tables.len() >= 19, "{compared} rows of {} tables", tables.len());
    // Some values, so that not both are wrong in the same way.
    let more = tables.iter().find(|table| table.table.name == "more").expect("more");
    let rows = copy_table(&mut session, more).await;
    let row = rows.iter().find(|row| row[0] == Some(b"11".to_vec())).expect("row 11");
    for (column, wanted) in [
        ("c_char", "pad     "),
        ("c_text", "tab\tnew\nline\rreturn\\ back \x08\x0c \x0b é世界🦀 \\\\N \\\\."),
        ("c_bytea", "\\x005c09ff"),
        ("c_float8", "0.30000000000000004"),
        ("c_bool", "f"),
        ("c_inet", "10.0.0.11"),
        ("c_timestamptz", "2024-02-29 10:34:56.123456+00"),
        ("c_money", "$1,234.50"),
        ("c_regclass", "other.\"Quoted \"\"name\""),
        ("c_regtype", "public.mood"),
        ("c_inets", "{::1}"),
    ] {
        let index = more.table.columns.iter().position(|found| found.name == column).expect(column);
        assert_eq!(row[index].as_deref(), Some(wanted.as_bytes()), "{column}");
    }
    drop(session);
    client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.expect("dropped");
}
