//! Partitions are attached and detached while rows flow: under their own names, and under their root's.

use anyhow::{Result, ensure};

use crate::harness::checker::Repeats;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::traffic::Traffic;

/// The attached one has its columns in another order, and a column that was dropped.
const TABLES: &str = "
create table part (id int primary key, name text, amount numeric(8,2)) partition by range (id);
create table part_a partition of part for values from (-1000000) to (1000);
create table part_b (amount numeric(8,2), gone int, name text, id int not null primary key);
alter table part_b drop column gone;
create table part_rest partition of part for values from (2000) to (100000000);
";

async fn partitions(test: &mut Fixture, root: bool) -> Result<()> {
    test.database.execute(TABLES).await?;
    test.database.capture_changing(&["public.part"], root).await?;
    // Rows that leave with a partition are not deleted.
    for name in ["public.part", "public.part_a", "public.part_b", "public.part_rest"] {
        test.do_not_fold(name);
    }
    test.expect_complaint("compatibility_set_to_none");
    let config = test.config().set("records.on_incompatible", "set_compatibility_none");
    let mut headwater = test.start(config.clone()).await?;
    let traffic = Traffic::start(
        &test.database,
        3,
        &[
            "insert into part (id, name) values ({new}, 'new')",
            "insert into part (id, name) values ({id}, 'n') on conflict (id) do update set name = part.name || '!'",
            "insert into part (id, name) values (1000 + {id}, 'b') on conflict (id) do update set amount = 1.25",
            "update part set amount = id / 100.0 where id in ({id}, 1000 + {id})",
            "delete from part where id = {id}",
        ],
    );
    traffic.commits(10).await?;
    test.database
        .execute("begin; insert into part (id) values (500); alter table part attach partition part_b for values from (1000) to (2000); insert into part (id, amount) values (1500, 3.5); commit")
        .await?;
    traffic.commits(20).await?;
    headwater.kill()?;
    let mut headwater = test.start(config.clone()).await?;
    traffic.commits(5).await?;
    test.database.execute("begin; insert into part (id) values (1600); alter table part add column tag text default 'x'; insert into part (id, tag) values (1601, 'y'); commit").await?;
    traffic.commits(10).await?;
    test.database.execute("begin; insert into part (id) values (1700); alter table part detach partition part_b; insert into part (id) values (501); commit").await?;
    traffic.commits(10).await?;
    headwater.kill()?;
    let mut headwater = test.start(config).await?;
    traffic.commits(10).await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    test.check(Repeats::Replayed).await?;
    let (from, other) =
        if root { ("public.part", "public.part_b") } else { ("public.part_b", "public.part") };
    ensure!(!test.raw_topic(&test.topic(from))?.is_empty(), "nothing in {from}");
    ensure!(test.raw_topic(&test.topic(other))?.is_empty(), "something in {other}");
    Ok(())
}

#[test]
fn partitions_under_their_own_names() {
    on_shared("partitions", async |test: &mut Fixture| partitions(test, false).await);
}

#[test]
fn partitions_under_their_root() {
    on_shared("partitions_root", async |test: &mut Fixture| partitions(test, true).await);
}
