//! Against a real server, any version from 14 to 18; `make test` runs them. By hand:
//! `HEADWATER_TEST_PG_PORT=5432 cargo test -p headwater-pg --test server -- --ignored`.

mod fake;
mod real;

use std::time::Duration;

use headwater_pg::catalog::{CatalogColumn, TypeKind, table, types};
use headwater_pg::publication::publications;
use headwater_pg::slot::{creation_blockers, slot_state};
use headwater_pg::{Client, ErrorKind, Frame, PgoutputOptions, Session, StandbyStatus, connect};
use headwater_pgoutput::{Lsn, RelationId};
use real::{database, server};
use tokio::time::{sleep, timeout};

async fn oid(client: &Client, expression: &str) -> u32 {
    client.query_one(&format!("SELECT {expression}::oid"), &[]).await.expect("a row").get(0)
}

#[tokio::test]
#[ignore = "needs a server"]
async fn tables_and_types() {
    let client = connect(&database("catalog").await).await.expect("connected");
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'ok');
             ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok';
             CREATE DOMAIN money2 AS numeric(10,2);
             CREATE DOMAIN moods AS mood[];
             CREATE TABLE t (gone int, b text NOT NULL, \"A b\" int NOT NULL, s serial, i int GENERATED ALWAYS AS IDENTITY,
                             d text DEFAULT 'it''s', g int GENERATED ALWAYS AS (\"A b\" * 2) STORED, m moods, n money2,
                             PRIMARY KEY (\"A b\", b) INCLUDE (d));
             CREATE UNIQUE INDEX u ON t (b, \"A b\");
             ALTER TABLE t REPLICA IDENTITY USING INDEX u;
             ALTER TABLE t DROP COLUMN gone",
        )
        .await
        .expect("created");
    let id = RelationId(oid(&client, "'t'::regclass").await);
    let found = table(&client, id).await.expect("answered").expect("found");
    assert_eq!((found.relkind, found.columns.len()), ('r', 8));
    assert_eq!(found.primary_key, ["A b", "b"]);
    assert_eq!(found.identity_index, ["b", "A b"]);
    let column =
        |name: &str| found.columns.iter().find(|column| column.name == name).expect("a column").clone();
    assert_eq!(
        column("d"),
        CatalogColumn {
            name: "d".to_owned(),
            type_oid: 25,
            type_modifier: -1,
            not_null: false,
            default_expression: Some("'it''s'::text".to_owned()),
            identity_or_serial: false,
            generated: false,
        }
    );
    assert!(column("s").identity_or_serial && column("i").identity_or_serial && column("i").not_null);
    assert!(column("g").generated && column("g").default_expression.is_none());

    let (moods, money2) = (column("m").type_oid, column("n").type_oid);
    let oids = [moods, money2, 30, 23, 999_999_999];
    let found = types(&client, &oids).await.expect("answered");
    let kind = |oid: u32| found.iter().find(|found| found.oid == oid).map(|found| found.kind.clone());
    let Some(TypeKind::Domain { base_oid: array, type_modifier: -1 }) = kind(moods) else {
        panic!("{found:?}")
    };
    let Some(TypeKind::Array { element_oid: mood }) = kind(array) else { panic!("{found:?}") };
    let labels = ["sad", "fine", "ok"].map(str::to_owned).to_vec();
    assert_eq!(kind(mood), Some(TypeKind::Enum { labels }));
    // numeric(10,2)
    assert_eq!(kind(money2), Some(TypeKind::Domain { base_oid: 1700, type_modifier: ((10 << 16) | 2) + 4 }));
    assert_eq!(kind(1700), Some(TypeKind::Base));
    // oidvector has elements, but is not written as an array
    assert_eq!((kind(30), kind(23), kind(999_999_999)), (Some(TypeKind::Base), Some(TypeKind::Base), None));
    let gone = table(&client, RelationId(999_999_999)).await.expect("answered");
    assert_eq!(gone, None);
}

#[tokio::test]
#[ignore = "needs a server"]
async fn not_null_that_is_not_valid() {
    let client = connect(&database("not_valid").await).await.expect("connected");
    client.batch_execute("CREATE TABLE t (a int, b int NOT NULL)").await.expect("created");
    if client.server_version() >= 180_000 {
        client.batch_execute("ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID").await.expect("altered");
    }
    let id = RelationId(oid(&client, "'t'::regclass").await);
    let found = table(&client, id).await.expect("answered").expect("found");
    assert_eq!(found.columns.iter().map(|column| column.not_null).collect::<Vec<_>>(), [false, true]);
    assert_eq!(found.primary_key, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs a server"]
async fn publications_with_and_without_lists() {
    let client = connect(&database("publication").await).await.expect("connected");
    let new = client.server_version() >= 150_000;
    let filtered = if new { "t (a, b) WHERE (a > 1)" } else { "t" };
    client
        .batch_execute(&format!(
            "CREATE TABLE t (a int PRIMARY KEY, b int, c int);
             CREATE TABLE \"U u\" (a int);
             CREATE PUBLICATION \"P one\" FOR TABLE {filtered}, \"U u\" WITH (publish = 'insert, delete');
             CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root = true)"
        ))
        .await
        .expect("created");
    let names = ["missing", "everything", "P one"].map(str::to_owned);
    let found = publications(&client, &names).await.expect("answered");
    let [one, everything] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.name.as_str(), one.all_tables, one.via_root), ("P one", false, false));
    assert_eq!((one.insert, one.update, one.delete, one.truncate), (true, false, true, false));
    let tables: Vec<_> =
        one.tables.iter().map(|table| (table.name.as_str(), table.columns.clone())).collect();
    let list = new.then(|| vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(tables, [("U u", None), ("t", list)]);
    assert_eq!(one.tables[1].row_filter.as_deref(), new.then_some("(a > 1)"));
    assert!(everything.all_tables && everything.via_root && everything.tables.len() == 2);
    assert!(everything.tables.iter().all(|table| table.columns.is_none()));
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_slot_from_its_creation_to_its_end() {
    let settings = database("slot").await;
    let client = connect(&settings).await.expect("connected");
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION \"p'\"\"q\" FOR TABLE t")
        .await
        .expect("created");
    let mut session = Session::connect(&settings).await.expect("connected");
    let identity = session.identify_system().await.expect("answered");
    assert_eq!((identity.timeline, identity.database.as_str()), (1, "headwater_pg_slot"));
    assert_eq!(session.parameter("TimeZone"), Some("UTC"));
    assert_eq!(slot_state(&client, "headwater_pg_slot").await.expect("answered"), None);
    let created = session.create_logical_slot("headwater_pg_slot", false, false).await.expect("created");
    let again = session.create_logical_slot("headwater_pg_slot", false, false).await.expect_err("it exists");
    assert_eq!((again.kind(), again.sqlstate()), (ErrorKind::Server, Some("42710")));
    let state = slot_state(&client, "headwater_pg_slot").await.expect("answered").expect("it exists");
    assert_eq!(
        (state.plugin.as_str(), state.slot_type.as_str(), state.active_pid),
        ("pgoutput", "logical", None)
    );
    assert_eq!(state.confirmed_flush_lsn, Some(created.consistent_point));
    assert_eq!((state.wal_status.as_deref(), state.invalidation.as_deref()), (Some("reserved"), None));
    assert!(state.retained_wal_bytes.is_some_and(|bytes| bytes >= 0));

    client.batch_execute("INSERT INTO t VALUES (1), (2)").await.expect("inserted");
    let options = PgoutputOptions { publications: vec!["p'\"q".to_owned()], messages: true };
    let pid = session.backend_pid();
    let mut stream = session
        .start_replication("headwater_pg_slot", created.consistent_point, &options)
        .await
        .expect("started");
    let mut kinds = Vec::new();
    let mut end = Lsn::INVALID;
    while kinds.last() != Some(&b'C') {
        for frame in stream.recv().await.expect("frames").frames() {
            if let Frame::XLogData { wal_end, data, .. } = frame {
                kinds.push(data[0]);
                end = wal_end;
            }
        }
    }
    assert_eq!(kinds, b"BRIIC");

    let rival = Session::connect(&settings).await.expect("connected");
    let refused =
        rival.start_replication("headwater_pg_slot", end, &options).await.err().expect("it is in use");
    assert_eq!((refused.sqlstate(), refused.is_transient()), (Some("55006"), true));
    let state = slot_state(&client, "headwater_pg_slot").await.expect("answered").expect("it exists");
    assert_eq!(state.active_pid, Some(pid));

    let status = StandbyStatus { write: end, flush: end, apply: end, reply_requested: false };
    stream.send_status(status).await.expect("sent");
    stream.finish().await.expect("finished");
    let state = slot_state(&client, "headwater_pg_slot").await.expect("answered").expect("it exists");
    assert!(state.confirmed_flush_lsn >= Some(end), "{state:?}, {end}");
    let mut session = Session::connect(&settings).await.expect("connected");
    session.drop_slot("headwater_pg_slot").await.expect("dropped");
    assert_eq!(slot_state(&client, "headwater_pg_slot").await.expect("answered"), None);
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_slot_whose_creation_is_given_up_does_not_come_to_be() {
    let settings = database("blocked").await;
    let client = connect(&settings).await.expect("connected");
    client.batch_execute("CREATE TABLE t (a int)").await.expect("created");
    // The blockers are in another database: that makes no difference to the server.
    let other = connect(&server("postgres")).await.expect("connected");
    other.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("an open transaction");
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s'")
        .await
        .expect("prepared");

    let mut session = Session::connect(&settings).await.expect("connected");
    let creation = session.create_logical_slot("headwater_pg_blocked", false, false);
    timeout(Duration::from_millis(500), creation).await.expect_err("it waits");
    let blockers = creation_blockers(&client).await.expect("answered");
    client.batch_execute("ROLLBACK PREPARED 'it''s'").await.expect("rolled back");
    let prepared = blockers.iter().find(|blocker| blocker.pid == 0).expect("the prepared one");
    assert_eq!((prepared.database.as_str(), prepared.state.as_str()), ("headwater_pg_blocked", "prepared"));
    assert_eq!(prepared.what, "prepared transaction 'it''s'");
    let open = blockers.iter().find(|blocker| blocker.state == "idle in transaction").expect("the open one");
    assert!(open.pid > 0 && open.database == "postgres" && open.age_seconds >= 0.5, "{open:?}");

    drop(session);
    sleep(Duration::from_millis(200)).await;
    other.batch_execute("ROLLBACK").await.expect("rolled back");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(slot_state(&client, "headwater_pg_blocked").await.expect("answered"), None);
}
