//! A savepoint rolled back in a transaction too large for memory on the server: a rival loses what came before it.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};

async fn in_a_large_transaction(test: &mut Fixture) -> Result<()> {
    // The server spills to disk, as it would with transactions far larger than this one.
    let small = format!("alter database \"{}\" set logical_decoding_work_mem = '64kB'", test.database.name);
    test.database.execute(&small).await?;
    test.capture("create table item (id int primary key, name text)", &["public.item"]).await?;
    let mut headwater = test.start(test.config()).await?;
    test.database
        .execute(
            "begin;
             insert into item select g, 'before' from generate_series(1, 5000) g;
             savepoint a; insert into item select g, 'gone' from generate_series(10001, 15000) g; rollback to a;
             insert into item select g, 'between' from generate_series(20001, 25000) g;
             savepoint b; update item set name = 'kept' where id <= 100;
             savepoint c; delete from item where id <= 50; rollback to c; release b;
             insert into item select g, 'after' from generate_series(30001, 35000) g;
             commit",
        )
        .await?;
    test.database
        .execute("begin; insert into item select g from generate_series(40001, 45000) g; rollback")
        .await?;
    test.settle().await?;
    headwater.stop().await?;
    let report = test.check(Repeats::None).await?;
    ensure!(report.records == 15_100, "{report:?}");
    Ok(())
}

#[test]
fn rolled_back_in_a_large_transaction() {
    on_shared("savepoints", in_a_large_transaction);
}
