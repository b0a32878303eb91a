//! Copies from a real server, any version from 14 to 18; as `server`, `make test` runs them.

mod fake;
mod real;

use std::time::Duration;

use headwater_pg::snapshot_tables::snapshot_tables;
use headwater_pg::transaction_snapshot::{SnapshotKeeper, begin_at_exported, begin_at_present};
use headwater_pg::{
    Client, ConnectSettings, CopySession, ErrorKind, Frame, PgoutputOptions, Session, connect,
};
use headwater_pgoutput::Lsn;
use real::{copy, database, server, texts};
use tokio::time::{sleep, timeout};

async fn session(settings: &ConnectSettings) -> CopySession {
    CopySession::connect(settings).await.expect("connected")
}

/// Asks until the answer is `wanted`.
async fn until(client: &Client, sql: &str, wanted: i64) {
    let asked = async {
        while client.query_one(sql, &[]).await.expect(sql).get::<_, i64>(0) != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), asked).await.unwrap_or_else(|_| panic!("{sql} is not {wanted}"));
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_snapshot_outlives_the_session_that_exported_it() {
    let settings = database("copy").await;
    let client = connect(&settings).await.expect("connected");
    client
        .batch_execute(
            "CREATE TABLE t (a int PRIMARY KEY, b text);
             INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 1000) n;
             CREATE PUBLICATION p FOR TABLE t",
        )
        .await
        .expect("created");
    let mut slot = Session::connect(&settings).await.expect("connected");
    let created = slot.create_logical_slot("headwater_pg_copy", true, true).await.expect("created");
    let name = created.snapshot_name.expect("exported");
    client.batch_execute("DELETE FROM t WHERE a > 10; UPDATE t SET b = 'y'").await.expect("changed");
    let mut keeper = SnapshotKeeper::import(&settings, &name).await.expect("imported");
    // The next command ends the export, and the temporary slot goes with its session.
    slot.identify_system().await.expect("answered");
    let mut late = session(&settings).await;
    let gone = begin_at_exported(&mut late, &name).await.expect_err("the first export is gone");
    assert_eq!(gone.kind(), ErrorKind::Server, "{gone:?}");
    late.query("ROLLBACK").await.expect("rolled back");
    drop(slot);

    let tables = snapshot_tables(&client, &["p".to_owned()]).await.expect("answered");
    let [table] = tables.as_slice() else { panic!("{tables:?}") };
    begin_at_exported(&mut late, keeper.name()).await.expect("begun");
    keeper.alive().await.expect("alive");
    let rows = copy(&mut late, &table.copy_pages(&table.leaves[0], None, None), 2).await;
    assert_eq!((rows.len(), &rows[0], &rows[999]), (1000, &texts(&["1", "x1"]), &texts(&["1000", "x1000"])));
    late.query("COMMIT").await.expect("committed");
    let mark = begin_at_present(&mut late, &[]).await.expect("begun");
    assert!(mark.high > created.consistent_point && mark.unix_micros >= keeper.unix_micros(), "{mark:?}");
    let rows = copy(&mut late, &table.copy_pages(&table.leaves[0], None, None), 2).await;
    assert_eq!(rows.len(), 10);

    client
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()")
        .await
        .expect("terminated");
    assert!(keeper.alive().await.is_err(), "its transaction is gone");
    assert!(SnapshotKeeper::import(&settings, "00000000-00000000-9").await.is_err());
}

#[tokio::test]
#[ignore = "needs a server"]
async fn no_timeout_of_role_or_database_ends_a_copy() {
    let settings = database("timeouts").await;
    let client = connect(&settings).await.expect("connected");
    for setting in [
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "transaction_timeout",
    ] {
        let sql = format!("ALTER DATABASE {} SET {setting} = '50ms'", settings.database);
        let altered = client.batch_execute(&sql).await;
        assert!(altered.is_ok() || (setting == "transaction_timeout" && client.server_version() < 170_000));
    }
    let mut session = session(&settings).await;
    begin_at_present(&mut session, &[]).await.expect("begun");
    sleep(Duration::from_millis(200)).await;
    let slow = "COPY (SELECT 1 FROM pg_sleep(0.2)) TO STDOUT";
    assert_eq!(copy(&mut session, slow, 1).await, [texts(&["1"])]);
    session.query("COMMIT").await.expect("committed");
    sleep(Duration::from_millis(200)).await;
    session.query("SELECT 1").await.expect("answered");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_copy_or_query_that_nobody_waits_for_is_cancelled() {
    let settings = database("cancel").await;
    let client = connect(&settings).await.expect("connected");
    let running = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%pg_sleep%'";
    // It has nothing to send, so that it would not notice a closed connection.
    let slow = "COPY (SELECT n FROM generate_series(1, 3) n WHERE pg_sleep(100) IS NULL) TO STDOUT";
    let mut copying = session(&settings).await;
    copying.copy_out(slow).await.expect("begun");
    timeout(Duration::from_millis(200), copying.next_rows()).await.expect_err("no row comes");
    until(&client, running, 1).await;
    drop(copying);
    until(&client, running, 0).await;

    let mut querying = session(&settings).await;
    timeout(Duration::from_millis(200), querying.query("SELECT pg_sleep(100)"))
        .await
        .expect_err("it takes long");
    until(&client, running, 0).await;
    let error = querying.query("SELECT 1").await.expect_err("its answer was not read to the end");
    assert_eq!(error.kind(), ErrorKind::Protocol);

    // In the midst of rows, of which nobody reads any.
    let mut copying = session(&settings).await;
    let many = "COPY (SELECT repeat('pg_sleep', 1000) FROM generate_series(1, 1000000)) TO STDOUT";
    copying.copy_out(many).await.expect("begun");
    assert!(copying.next_rows().await.expect("rows").is_some());
    until(&client, running, 1).await;
    drop(copying);
    until(&client, running, 0).await;
}

#[tokio::test]
#[ignore = "needs a server"]
async fn an_error_in_the_midst_of_a_copy_comes_after_its_rows() {
    let settings = database("midst").await;
    let mut session = session(&settings).await;
    let mark = begin_at_present(&mut session, &[]).await.expect("begun");
    session
        .copy_out("COPY (SELECT 1 / (5000 - n) FROM generate_series(1, 10000) n) TO STDOUT")
        .await
        .expect("begun");
    let mut count = 0;
    let error = loop {
        match session.next_rows().await {
            Ok(rows) => count += rows.expect("no end").len(),
            Err(error) => break error,
        }
    };
    assert_eq!((count, error.sqlstate()), (4999, Some("22012")));
    let error = session.query("SELECT 1").await.expect_err("the transaction is aborted");
    assert_eq!(error.sqlstate(), Some("25P02"));
    session.query("ROLLBACK").await.expect("rolled back");
    let again = begin_at_present(&mut session, &[]).await.expect("begun");
    assert!(again.unix_micros > mark.unix_micros);
    session.set_max_frame_bytes(1000);
    session.copy_out("COPY (SELECT repeat('x', 2000)) TO STDOUT").await.expect("begun");
    let error = session.next_rows().await.expect_err("too large");
    assert!(matches!(error.kind(), ErrorKind::FrameTooLarge { bytes: 2006, .. }), "{error:?}");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn policies_that_would_leave_out_rows_are_an_error() {
    let settings = database("rls").await;
    let client = connect(&settings).await.expect("connected");
    client
        .batch_execute(
            "DROP ROLE IF EXISTS headwater_pg_rls;
             CREATE ROLE headwater_pg_rls LOGIN;
             CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10);
             CREATE TABLE free (a int PRIMARY KEY);
             GRANT SELECT ON t, free TO headwater_pg_rls;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY few ON t USING (a < 3);
             CREATE PUBLICATION p FOR TABLE t, free",
        )
        .await
        .expect("created");
    let limited = ConnectSettings { user: "headwater_pg_rls".to_owned(), ..settings.clone() };
    let theirs = connect(&limited).await.expect("connected");
    let publications = ["p".to_owned()];
    for (client, subject) in [(&theirs, true), (&client, false)] {
        let tables = snapshot_tables(client, &publications).await.expect("answered");
        let security: Vec<_> =
            tables.iter().map(|table| (table.table.name.as_str(), table.row_security)).collect();
        assert_eq!(security, [("free", false), ("t", subject)]);
    }
    let tables = snapshot_tables(&theirs, &publications).await.expect("answered");
    let mut session = session(&limited).await;
    session.copy_out(&tables[1].copy_pages(&tables[1].leaves[0], None, None)).await.expect("sent");
    let error = session.next_rows().await.expect_err("two rows of ten are no copy");
    assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
    assert!(copy(&mut session, &tables[0].copy_pages(&tables[0].leaves[0], None, None), 1).await.is_empty());
    drop(session);
    client
        .batch_execute("DROP OWNED BY headwater_pg_rls; DROP ROLE headwater_pg_rls")
        .await
        .expect("dropped");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_transaction_in_progress_is_not_seen_and_one_before_is() {
    let settings = database("seen").await;
    let (client, other) =
        (connect(&settings).await.expect("connected"), connect(&settings).await.expect("connected"));
    let xid = |client: Client| async move {
        let id: i64 =
            client.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).await.expect("an id").get(0);
        (client, id as u64)
    };
    let (client, before) = xid(client).await;
    other.batch_execute("BEGIN; SAVEPOINT s").await.expect("begun");
    let (other, during) = xid(other).await;
    let (client, between) = xid(client).await;
    let mut session = session(&settings).await;
    let mark = begin_at_present(&mut session, &[]).await.expect("begun");
    other.batch_execute("COMMIT").await.expect("committed");
    let (_client, after) = xid(client).await;
    for (id, seen) in [(before, true), (during, false), (between, true), (after, false)] {
        assert_eq!(mark.snapshot.sees(id as u32), seen, "{id} in {:?}", mark.snapshot);
        assert_eq!(mark.snapshot.widen(id as u32), id);
        let sql = format!("SELECT pg_visible_in_snapshot('{id}', pg_current_snapshot())");
        let servers = session.query(&sql).await.expect("answered");
        assert_eq!(servers, [[Some(if seen { "t" } else { "f" }.to_owned())]], "{id}");
    }
}

/// The end of WAL at a page's end is where the server's two ways to say it differ: by the next page's header.
#[tokio::test]
#[ignore = "needs a server"]
async fn keepalives_of_an_idle_server_reach_the_watermark() {
    let settings = database("idle").await;
    let client = connect(&settings).await.expect("connected");
    client.batch_execute("CREATE PUBLICATION p").await.expect("created");
    let slot = "headwater_pg_idle";
    let mut creator = Session::connect(&settings).await.expect("connected");
    let start = creator.create_logical_slot(slot, false, false).await.expect("created").consistent_point;
    drop(creator);
    let mut session = session(&settings).await;
    let mut at_a_page_end = 0;
    for _ in 0..200 {
        fill_page(&client).await;
        let says: String = client
            .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
            .await
            .expect("a position")
            .get(0);
        let says: Lsn = says.parse().expect("a position");
        let mark = begin_at_present(&mut session, &[]).await.expect("begun");
        session.query("COMMIT").await.expect("committed");
        if says.0 % 8192 == 24 && mark.high.0 + 24 == says.0 {
            at_a_page_end += 1;
            reaches(&settings, slot, start, mark.high).await;
            if at_a_page_end == 3 {
                break;
            }
        }
    }
    assert_eq!(at_a_page_end, 3, "WAL did not end at a page's end");
    // And at any other place.
    client.batch_execute("SELECT pg_logical_emit_message(false, 'x', 'y')").await.expect("written");
    client.batch_execute("CREATE TABLE t ()").await.expect("committed, which flushes");
    let mark = begin_at_present(&mut session, &[]).await.expect("begun");
    reaches(&settings, slot, start, mark.high).await;
    client.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.expect("dropped");
}

/// Writes a record that ends where a page does, unless somebody else writes at the same time.
async fn fill_page(client: &Client) {
    // What a message takes beside its content is found by trying; a page header within it counts 24.
    client
        .batch_execute(
            "DO $$
             DECLARE before bigint; now bigint; took bigint; room bigint;
             BEGIN
               before := pg_current_wal_insert_lsn() - '0/0';
               PERFORM pg_logical_emit_message(false, 'x', repeat('y', 1000));
               now := pg_current_wal_insert_lsn() - '0/0';
               took := now - before - 1000 - CASE WHEN before / 8192 <> now / 8192 THEN 24 ELSE 0 END;
               room := 8192 - now % 8192;
               IF room > 1200 THEN
                 PERFORM pg_logical_emit_message(false, 'x', repeat('y', (room - took)::int));
               END IF;
             END $$",
        )
        .await
        .expect("written");
}

/// The stream of an idle server comes to `position`, by keepalives alone.
async fn reaches(settings: &ConnectSettings, slot: &str, start: Lsn, position: Lsn) {
    let session = Session::connect(settings).await.expect("connected");
    let options = PgoutputOptions { publications: vec!["p".to_owned()], messages: false };
    let mut stream = session.start_replication(slot, start, &options).await.expect("started");
    let mut reached = Lsn(0);
    let wait = async {
        while reached < position {
            for frame in stream.recv().await.expect("frames").frames() {
                match frame {
                    Frame::Keepalive { wal_end, .. } | Frame::XLogData { wal_end, .. } => {
                        reached = reached.max(wal_end);
                    }
                }
            }
        }
    };
    let waited = timeout(Duration::from_secs(20), wait).await;
    waited.unwrap_or_else(|_| panic!("the stream is at {reached} and does not come to {position}"));
    stream.finish().await.expect("finished");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn an_exported_slot_is_only_made_where_a_snapshot_can_be() {
    let mut session = Session::connect(&server("postgres")).await.expect("connected");
    let without = session.create_logical_slot("headwater_pg_plain", true, false).await.expect("created");
    assert_eq!(without.snapshot_name, None);
    session.drop_slot("headwater_pg_plain").await.expect("dropped");
}
