//! Copies by roles that may do little: one that may write nothing at all, and those from whom rows are hidden.

use anyhow::{Result, ensure};

use crate::harness::fixture::{Fixture, on, on_shared};
use crate::harness::headwater::Config;
use crate::harness::joined;
use crate::harness::servers;
use crate::harness::snapshots::{
    self, CHUNK_WAITS, ROWS, beside, change_at, command, commanded, complete, initial, prepare, start_gated,
    state,
};
use crate::harness::traffic::Traffic;

/// A role with REPLICATION and nothing else, whose every transaction is read-only.
async fn reader(test: &Fixture) -> Result<String> {
    let role = format!("reader_{}", test.database.name);
    test.database
        .execute(&format!(
            "create role {role} login replication; alter role {role} set default_transaction_read_only = on"
        ))
        .await?;
    Ok(role)
}

fn as_role(test: &Fixture, config: Config, role: &str) -> Config {
    config.set("postgres.url", test.database.url().replacen("postgres@", &format!("{role}@"), 1))
}

async fn read_only(test: &mut Fixture) -> Result<()> {
    prepare(test, 4000).await?;
    let role = reader(test).await?;
    test.database.execute(&format!("grant select on items to {role}")).await?;
    let traffic = Traffic::start(&test.database, 3, &["select churn(4000)"]);
    let config = as_role(test, initial(test), &role);
    let mut headwater = test.spawn(config.clone())?;
    complete(&headwater).await?;
    headwater.streaming().await?;
    commanded(test, &headwater, &config, &["start", "public.items"])?;
    state(&headwater, "done").await?;
    traffic.finish().await;
    test.settle().await?;
    headwater.stop().await?;
    let found = joined::check(test, &test.topic("public.items"), ROWS).await?;
    ensure!(found.marks.get("incremental").is_some_and(|rows| *rows > 2500), "{found:?}");
    ensure!(found.read > 6000, "{found:?}");
    Ok(())
}

/// What a role can't see is not left out in silence: not when a copy begins, and not in its midst.
async fn hidden_rows(test: &mut Fixture) -> Result<()> {
    prepare(test, 3000).await?;
    test.expect_complaint("giving up the copy of a table");
    test.expect_complaint(CHUNK_WAITS);
    test.database
        .execute(
            "create table secret (id int primary key); insert into secret values (1), (2);
             alter table secret enable row level security; create policy odd on secret using (id % 2 = 1);
             create table closed (id int primary key); alter publication captured add table secret, closed",
        )
        .await?;
    let role = reader(test).await?;
    test.database.execute(&format!("grant select on items, secret to {role}")).await?;
    let config = as_role(test, beside(test), &role);
    let mut headwater = test.start(config.clone()).await?;
    for (table, words) in [
        ("public.secret", &["row-level security hides rows of public.secret", "BYPASSRLS"][..]),
        ("public.closed", &["may not read public.closed", "GRANT SELECT"]),
        ("public.*", &["may not read public.closed"]),
    ] {
        let (ok, text) = command(test, &headwater, &config, &["start", table])?;
        ensure!(!ok && words.iter().all(|words| text.contains(words)), "{table}: {text}");
    }
    let gate = start_gated(test, &headwater, &config, "public.items", (1, "id >= 500")).await?;
    change_at(test, gate, "alter table items enable row level security").await?;
    state(&headwater, "done").await?;
    let told = snapshots::status(&headwater)?["tables"]["public.items"].clone();
    ensure!(told["state"] == "failed", "{told}");
    ensure!(told["error"].as_str().is_some_and(|error| error.contains("row-level security")), "{told}");
    // The stream has all rows and goes on.
    test.database.execute("insert into secret values (4)").await?;
    test.database.execute("alter table items disable row level security").await?;
    commanded(test, &headwater, &config, &["start", "public.items"])?;
    state(&headwater, "done").await?;
    test.settle().await?;
    headwater.stop().await?;
    let secret = test.raw_topic(&test.topic("public.secret"))?;
    ensure!(secret.len() == 1, "{} records of a table that was not copied", secret.len());
    joined::check(test, &test.topic("public.items"), ROWS).await?;
    Ok(())
}

#[test]
fn without_any_right_to_write() {
    on_shared("role_reads", read_only);
}

#[test]
fn without_any_right_to_write_on_postgres_14() {
    on("role_reads_14", servers::postgres(14), servers::kafka(), read_only);
}

#[test]
fn from_whom_rows_are_hidden() {
    on_shared("role_hidden", hidden_rows);
}
