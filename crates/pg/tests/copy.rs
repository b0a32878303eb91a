//! Copies from a real server, any version from 14 to 18; as `server`, `make test` runs them.

mod fake;
mod real;

use headwater_pg::snapshot_tables::snapshot_tables;
use headwater_pg::transaction_snapshot::{SnapshotKeeper, begin_at_exported, begin_at_present};
use headwater_pg::{CopySession, Session, connect};
use real::database;

/// Runs a COPY; its rows.
async fn copy(session: &mut CopySession, sql: &str) -> Vec<String> {
    session.copy_out(sql).await.expect("a copy");
    let mut found = Vec::new();
    while let Some(rows) = session.next_rows().await.expect("rows") {
        found.extend(rows.rows().map(|row| String::from_utf8(row.to_vec()).expect("text")));
    }
    found
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_table_from_its_slot_to_its_rows() {
    let settings = database("copy").await;
    let client = connect(&settings).await.expect("connected");
    client
        .batch_execute(
            "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 1000) n;
             CREATE PUBLICATION p FOR TABLE t",
        )
        .await
        .expect("created");
    let mut slot = Session::connect(&settings).await.expect("connected");
    let created = slot.create_logical_slot("headwater_pg_copy", true, true).await.expect("created");
    let name = created.snapshot_name.expect("exported");
    client.batch_execute("DELETE FROM t WHERE a > 10; UPDATE t SET b = 'y'").await.expect("changed");
    let mut keeper = SnapshotKeeper::import(&settings, &name).await.expect("imported");
    drop(slot);
    let tables = snapshot_tables(&client, &["p".to_owned()]).await.expect("answered");
    let [table] = tables.as_slice() else { panic!("{tables:?}") };
    let mut session = CopySession::connect(&settings).await.expect("connected");
    begin_at_exported(&mut session, keeper.name()).await.expect("begun");
    keeper.alive().await.expect("alive");
    let rows = copy(&mut session, &table.copy_pages(&table.leaves[0], None, None)).await;
    assert_eq!((rows.len(), rows[0].as_str(), rows[999].as_str()), (1000, "1\tx1\n", "1000\tx1000\n"));
    session.query("COMMIT").await.expect("committed");
    let mark = begin_at_present(&mut session).await.expect("begun");
    assert!(mark.high > created.consistent_point, "{mark:?}");
    let chunk = copy(&mut session, &table.copy_chunk(Some(&["3".to_owned()]), 2, None)).await;
    assert_eq!(chunk, ["4\ty\n", "5\ty\n"]);
    let keys =
        copy(&mut session, &table.copy_keys(&[vec!["7".to_owned()], vec!["70".to_owned()]], None)).await;
    assert_eq!(keys, ["7\ty\n"]);
}
