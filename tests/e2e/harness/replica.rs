//! The other end of `headwater apply`: a database for the replica, the command's configuration, and the comparison, which
//! Postgres itself makes on both sides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::database::{Database, TableName, quote};
use super::fixture::Fixture;
use super::headwater::{Config, Headwater};
use super::servers::Postgres;
use super::until;

/// How long a replica may take to become equal on this machine with its two cores shared.
const CATCH_UP: Duration = Duration::from_secs(90);

/// A replica's database.
pub struct Replica {
    /// Where the target tables are.
    pub database: Database,
    group: String,
}

impl Replica {
    /// An empty database on the test's server.
    pub async fn create(test: &Fixture) -> Result<Replica> {
        Replica::create_on(test, &test.database.server).await
    }

    /// The same, on another server.
    pub async fn create_on(test: &Fixture, server: &Postgres) -> Result<Replica> {
        let group = format!("{}_replica", test.prefix());
        let database = Database::create(server, &group).await?;
        Ok(Replica { database, group })
    }

    /// Applies the topics of these tables.
    pub fn config(&self, test: &Fixture, tables: &[&str]) -> Config {
        let topics: Vec<toml::Value> = tables.iter().map(|table| test.topic(table).into()).collect();
        Config::default()
            .set("target.url", self.database.url())
            .set("kafka.bootstrap_servers", test.kafka.bootstrap.clone())
            // As short as brokers allow: a killed member is missed soon.
            .set(
                "kafka.properties",
                toml::Table::from_iter([("session.timeout.ms".to_owned(), "6000".into())]),
            )
            .set("schema_registry.url", test.kafka.registry.clone())
            .set("apply.group", self.group.clone())
            .set("apply.topics", toml::Value::Array(topics))
    }

    /// Starts the command and waits until it applies.
    pub async fn start(&self, test: &mut Fixture, config: Config) -> Result<Headwater> {
        let mut apply = test.spawn_command(&["apply"], config)?;
        apply.ready("applying").await?;
        Ok(apply)
    }

    /// A table's rows as one number, of these columns; by Postgres. Debezium's form of a numeric without a precision has no
    /// trailing zeros, so they don't count.
    pub async fn checksum(database: &Database, table: &str, columns: &[String]) -> Result<String> {
        let name = TableName::new(table);
        let numerics = format!(
            "select column_name from information_schema.columns where table_schema = '{}' and table_name = '{}' \
             and data_type = 'numeric'",
            name.schema, name.table
        );
        let numerics: Vec<_> = database.rows(&numerics).await?.into_iter().flatten().flatten().collect();
        let expression = |column: &String| match numerics.contains(column) {
            true => format!("trim_scale({})", quote(column)),
            false => quote(column),
        };
        let columns: Vec<_> = columns.iter().map(expression).collect();
        let sql = format!(
            "select count(*) || ' rows ' || coalesce(sum(hashtextextended(row({})::text, 0)::numeric), 0) from {}.{}",
            columns.join(", "),
            quote(&name.schema),
            quote(&name.table)
        );
        database.value(&sql).await?.context("a checksum")
    }

    /// The columns of a table.
    pub async fn columns(database: &Database, table: &str) -> Result<Vec<String>> {
        let name = TableName::new(table);
        let sql = format!(
            "select column_name from information_schema.columns where table_schema = '{}' and table_name = '{}' \
             order by ordinal_position",
            name.schema, name.table
        );
        Ok(database
            .rows(&sql)
            .await?
            .into_iter()
            .filter_map(|row| row.into_iter().next().flatten())
            .collect())
    }

    /// The first table that differs, with both checksums; none if all are equal.
    pub async fn difference(&self, source: &Database, tables: &[&str]) -> Result<Option<String>> {
        for table in tables {
            let columns = Replica::columns(source, table).await?;
            ensure!(!columns.is_empty(), "the source has no table {table}");
            let there = Replica::columns(&self.database, table).await?;
            if let Some(missing) = columns.iter().find(|column| !there.contains(column)) {
                return Ok(Some(format!("{table} lacks {missing}")));
            }
            let (ours, theirs) = (
                Replica::checksum(source, table, &columns).await?,
                Replica::checksum(&self.database, table, &columns).await?,
            );
            if ours != theirs {
                return Ok(Some(format!("{table}: source {ours}, replica {theirs}")));
            }
        }
        Ok(None)
    }

    /// Waits until all tables are equal.
    pub async fn equals(&self, test: &Fixture, tables: &[&str]) -> Result<()> {
        let mut difference = None;
        until(CATCH_UP, "the replica to be equal", async || {
            difference = self.difference(&test.database, tables).await?;
            Ok(difference.is_none())
        })
        .await
        .with_context(|| format!("{difference:?}"))
    }

    /// Notes every row that is written from now on, with its position, in a table that [`Replica::judge`] looks at.
    pub async fn watch(&self, tables: &[&str]) -> Result<()> {
        let mut sql = String::from(
            "create table applied (n bigserial primary key, place text, key text, lsn pg_lsn, ordinal bigint);
             create function note_applied() returns trigger language plpgsql as $$ begin
               insert into applied (place, key, lsn, ordinal) values (tg_table_name,
                 (select string_agg(to_jsonb(new)->>name, ',' order by name) from unnest(tg_argv) name),
                 new._headwater_lsn, new._headwater_ordinal);
               return null;
             end $$;",
        );
        for table in tables {
            let name = TableName::new(table);
            let key = format!(
                "select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                 where i.indisprimary and i.indrelid = '{table}'::regclass"
            );
            let key: Vec<_> = self.database.rows(&key).await?.into_iter().flatten().flatten().collect();
            ensure!(!key.is_empty(), "{table} has no key");
            sql.push_str(&format!(
                "create trigger note after insert or update on {}.{} for each row execute function note_applied('{}');",
                quote(&name.schema),
                quote(&name.table),
                key.join("', '")
            ));
        }
        self.database.execute(&sql).await
    }

    /// No change was written twice, and of each key every write stands behind the one before it; gives how many there were.
    pub async fn judge(&self) -> Result<i64> {
        let count = async |sql: &str| -> Result<i64> {
            Ok(self.database.value(sql).await?.context("a count")?.parse()?)
        };
        let twice = count(
            "select count(*) from (select from applied group by place, key, lsn, ordinal having count(*) > 1) t",
        );
        ensure!(twice.await? == 0, "changes were applied twice");
        let back = count(
            "select count(*) from (select lsn, ordinal, lag(lsn) over w as lsn_before, lag(ordinal) over w as before
               from applied window w as (partition by place, key order by n)) t
             where (lsn, ordinal) <= (lsn_before, before)",
        );
        ensure!(back.await? == 0, "keys went back");
        count("select count(*) from applied").await
    }

    /// Waits until the tables are there.
    pub async fn has(&self, tables: &[&str]) -> Result<()> {
        until(CATCH_UP, "the tables to be made", async || {
            for table in tables {
                let there = format!("select to_regclass('{table}') is not null");
                if self.database.value(&there).await?.as_deref() != Some("t") {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// Empties the replica's tables and what is remembered of deleted keys.
    pub async fn empty(&self, tables: &[&str]) -> Result<()> {
        let list: Vec<_> = tables
            .iter()
            .map(|table| {
                let name = TableName::new(table);
                format!("{}.{}", quote(&name.schema), quote(&name.table))
            })
            .collect();
        self.database.execute(&format!("truncate {}, headwater.apply_deleted", list.join(", "))).await
    }

    /// The sum of all offsets that were applied.
    pub async fn applied(&self) -> Result<i64> {
        let sql = "select coalesce(sum(greatest(next_offset, 0)), 0) from headwater.apply_offset";
        Ok(self.database.value(sql).await?.context("a sum")?.parse()?)
    }
}
