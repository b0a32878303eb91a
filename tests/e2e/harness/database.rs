//! A database of one test's own: captured tables, their publication, and the audit that triggers write in the same
//! transaction as each change. What the audit says, rendered by Postgres itself, is what Kafka has to say.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::evidence::{AuditRow, Commit, Identity, Operation, Row, TableSpec};
use super::servers::Postgres;

/// Text as Postgres gives it to a client with these settings is the truth that values are compared with.
const PINNED: &str =
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex";

/// `hstore(record)` renders every column with its type's own output function.
const AUDIT: &str = r#"
create schema audit;
create extension hstore schema audit;
create table audit.change (
  seq bigserial primary key, txid bigint not null, relation text not null, op text not null, old text, new text, spec text);
create function audit.record() returns trigger language plpgsql security definer
  set search_path = audit, pg_catalog set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
  set extra_float_digits = 3 set bytea_output = 'hex' as $$
begin
  if tg_op = 'INSERT' then
    insert into change (txid, relation, op, new)
    values (txid_current(), tg_table_schema || '.' || tg_table_name, 'c', hstore_to_json(hstore(new)));
  elsif tg_op = 'UPDATE' then
    insert into change (txid, relation, op, old, new) values (
      txid_current(), tg_table_schema || '.' || tg_table_name, 'u', hstore_to_json(hstore(old)), hstore_to_json(hstore(new)));
  elsif tg_op = 'DELETE' then
    insert into change (txid, relation, op, old)
    values (txid_current(), tg_table_schema || '.' || tg_table_name, 'd', hstore_to_json(hstore(old)));
  else
    insert into change (txid, relation, op) values (txid_current(), tg_table_schema || '.' || tg_table_name, 't');
  end if;
  return null;
end $$;
-- The same for tables that change meanwhile: with the table's name, key and identity of that very moment. The argument
-- names the published root of a partition.
create function audit.record_moment() returns trigger language plpgsql security definer
  set search_path = audit, pg_catalog set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
  set extra_float_digits = 3 set bytea_output = 'hex' as $$
declare
  published regclass := case when tg_nargs > 0 then tg_argv[0]::regclass else tg_relid::regclass end;
  moment record;
begin
  select n.nspname, c.relname, c.relreplident,
         (select json_agg(a.attname order by array_position(i.indkey::int2[], a.attnum))
            from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
           where i.indrelid = c.oid and i.indisprimary) as pk,
         (select json_agg(a.attname order by array_position(i.indkey::int2[], a.attnum))
            from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
           where i.indrelid = c.oid and i.indisreplident) as ri
    into moment from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = published;
  insert into change (txid, relation, op, old, new, spec) values (
    txid_current(), moment.nspname || '.' || moment.relname,
    case tg_op when 'INSERT' then 'c' when 'UPDATE' then 'u' else 'd' end,
    case when tg_op <> 'INSERT' then hstore_to_json(hstore(old)) end,
    case when tg_op <> 'DELETE' then hstore_to_json(hstore(new)) end,
    json_build_array(moment.nspname, moment.relname, moment.relreplident, moment.pk, moment.ri));
  return null;
end $$;
"#;

/// The publication of every test.
pub const PUBLICATION: &str = "captured";
/// The product's slot.
pub const SLOT_PREFIX: &str = "hw_";
/// The slot that only the checker reads.
pub const ORACLE_PREFIX: &str = "oracle_";

/// A database with its own slot names.
pub struct Database {
    /// The server it is on.
    pub server: Postgres,
    /// Its name; also the topic prefix of its test.
    pub name: String,
    client: Mutex<Option<Client>>,
}

/// A table by schema and name, as people write it in SQL without quotes or dots inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// From `schema.table`; the first dot divides.
    pub fn new(name: &str) -> TableName {
        let (schema, table) = name.split_once('.').expect("tables are named with their schema");
        TableName { schema: schema.to_owned(), table: table.to_owned() }
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }

    fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// A name as an SQL identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Database {
    /// Creates it, with the audit in it.
    pub async fn create(server: &Postgres, name: &str) -> Result<Database> {
        let admin = connect(server, "postgres").await?;
        admin.batch_execute(&format!("create database {}", quote(name))).await.context("create database")?;
        let database = Database { server: server.clone(), name: name.to_owned(), client: Mutex::new(None) };
        database.execute(AUDIT).await.context("install the audit")?;
        Ok(database)
    }

    /// The product's slot.
    pub fn slot(&self) -> String {
        format!("{SLOT_PREFIX}{}", self.name)
    }

    fn oracle(&self) -> String {
        format!("{ORACLE_PREFIX}{}", self.name)
    }

    /// A connection string for the product.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    /// One more connection, for a writer.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.server, &self.name).await
    }

    /// Runs statements; several run as one transaction.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.with_client(sql).await.map(drop)
    }

    /// The rows of a query as Postgres renders them.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.with_client(sql).await?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// The single value of a query; `None` for NULL or no row.
    pub async fn value(&self, sql: &str) -> Result<Option<String>> {
        Ok(self.rows(sql).await?.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    /// A position in the WAL as a number.
    pub async fn lsn(&self, sql: &str) -> Result<u64> {
        let text = self.value(sql).await?.with_context(|| format!("no LSN from: {sql}"))?;
        parse_lsn(&text)
    }

    /// What the product's slot has confirmed, if it exists.
    pub async fn confirmed(&self) -> Result<Option<u64>> {
        let sql = format!(
            "select confirmed_flush_lsn from pg_replication_slots where slot_name = '{}'",
            self.slot()
        );
        self.value(&sql).await?.map(|text| parse_lsn(&text)).transpose()
    }

    async fn with_client(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>> {
        let mut client = self.client.lock().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            *client = Some(self.connect().await?);
        }
        let client = client.as_ref().expect("connected above");
        client
            .simple_query(sql)
            .await
            .with_context(|| format!("run: {}", sql.chars().take(300).collect::<String>()))
    }

    /// Publishes and audits tables that exist, and starts the checker's own slot.
    pub async fn capture(&self, tables: &[&str]) -> Result<()> {
        let names: Vec<_> = tables.iter().map(|name| TableName::new(name)).collect();
        let list: Vec<_> = names.iter().map(TableName::quoted).collect();
        self.execute(&format!("create publication {PUBLICATION} for table {}", list.join(", "))).await?;
        for name in &names {
            self.audit(name).await?;
        }
        self.execute(&format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", self.oracle()))
            .await
    }

    /// Publishes tables that exist and will change, whose audit notes their state with every row; `root` when a
    /// partitioned table's changes are published as its own. Starts the checker's own slot.
    pub async fn capture_changing(&self, tables: &[&str], root: bool) -> Result<()> {
        let names: Vec<_> = tables.iter().map(|name| TableName::new(name)).collect();
        let list: Vec<_> = names.iter().map(TableName::quoted).collect();
        self.execute(&format!(
            "create publication {PUBLICATION} for table {} with (publish_via_partition_root = {root})",
            list.join(", ")
        ))
        .await?;
        for name in tables {
            self.audit_changing(name, root).await?;
        }
        self.execute(&format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", self.oracle()))
            .await
    }

    /// Audits one more table that will change; it must be published.
    pub async fn audit_changing(&self, table: &str, root: bool) -> Result<()> {
        let quoted = TableName::new(table).quoted();
        let argument = if root { format!("'{quoted}'") } else { String::new() };
        self.execute(&format!(
            "create trigger audit after insert or update or delete on {quoted} for each row
             execute function audit.record_moment({argument})"
        ))
        .await
    }

    /// Publishes and audits one more table.
    pub async fn capture_also(&self, table: &str) -> Result<()> {
        let name = TableName::new(table);
        self.execute(&format!("alter publication {PUBLICATION} add table {}", name.quoted())).await?;
        self.audit(&name).await
    }

    async fn audit(&self, name: &TableName) -> Result<()> {
        let table = name.quoted();
        self.execute(&format!(
            "create trigger audit after insert or update or delete on {table} for each row execute function audit.record();
             create trigger audit_truncate after truncate on {table} for each statement execute function audit.record()"
        ))
        .await
    }

    /// Key and identity of the captured tables, from the catalog.
    pub async fn specs(&self) -> Result<BTreeMap<String, TableSpec>> {
        let sql = format!(
            "select t.schemaname, t.tablename, c.relreplident,
               (select array_to_json(array_agg(a.attname order by array_position(i.indkey::int2[], a.attnum)))
                  from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
                 where i.indrelid = c.oid and i.indisprimary),
               (select array_to_json(array_agg(a.attname order by array_position(i.indkey::int2[], a.attnum)))
                  from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
                 where i.indrelid = c.oid and i.indisreplident)
             from pg_publication_tables t
             join pg_namespace n on n.nspname = t.schemaname
             join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
             where t.pubname = '{PUBLICATION}'"
        );
        let mut specs = BTreeMap::new();
        for row in self.rows(&sql).await? {
            let [Some(schema), Some(table), Some(letter), primary, index] =
                <[_; 5]>::try_from(row).expect("five columns")
            else {
                bail!("a NULL in the catalog")
            };
            let columns = |json: Option<String>| -> Result<Vec<String>> {
                Ok(json.map(|json| serde_json::from_str(&json)).transpose()?.unwrap_or_default())
            };
            let spec = spec(schema, table, &letter, columns(primary)?, columns(index)?);
            specs.insert(format!("{}.{}", spec.schema, spec.table), spec);
        }
        Ok(specs)
    }

    /// All rows of a captured table, rendered.
    pub async fn table_rows(&self, spec: &TableSpec) -> Result<Vec<Row>> {
        let name = TableName { schema: spec.schema.clone(), table: spec.table.clone() };
        let sql = format!("select audit.hstore_to_json(audit.hstore(t))::text from {} t", name.quoted());
        self.rows(&sql)
            .await?
            .into_iter()
            .map(|row| parse_row(row[0].as_deref().context("a NULL row")?))
            .collect()
    }

    /// What the triggers recorded, in the order they did.
    pub async fn audit_rows(&self) -> Result<Vec<AuditRow>> {
        let rows =
            self.rows("select txid, relation, op, old, new, spec from audit.change order by seq").await?;
        rows.into_iter()
            .map(|row| {
                let [Some(txid), Some(relation), Some(op), old, new, moment] =
                    <[_; 6]>::try_from(row).expect("six columns")
                else {
                    bail!("a NULL in the audit")
                };
                let operation = match op.as_str() {
                    "c" => Operation::Insert,
                    "u" => Operation::Update,
                    "d" => Operation::Delete,
                    _ => Operation::Truncate,
                };
                let row = |text: Option<String>| text.map(|text| parse_row(&text)).transpose();
                // The stream carries the low 32 bits of a transaction id.
                let xid = txid.parse::<u64>()? as u32;
                let spec = moment.map(|json| spec_of_moment(&json)).transpose()?;
                Ok(AuditRow { xid, relation, operation, old: row(old)?, new: row(new)?, spec })
            })
            .collect()
    }

    /// Forgets what was recorded so far: it was committed before the product's slot existed.
    pub async fn forget_audit(&self) -> Result<()> {
        self.execute("truncate audit.change").await
    }

    /// Every transaction as the server's own decoder tells it on a slot of the checker's own.
    ///
    /// pgoutput's Commit: `C`, flags (1 byte), commit LSN (8), end LSN (8), microseconds since 2000 (8), big-endian.
    pub async fn commits(&self) -> Result<HashMap<u32, Commit>> {
        let sql = format!(
            "select xid, encode(data, 'hex') from pg_logical_slot_peek_binary_changes('{}', null, null,
               'proto_version', '1', 'publication_names', '{PUBLICATION}') where get_byte(data, 0) = 67",
            self.oracle()
        );
        let mut commits = HashMap::new();
        for row in self.rows(&sql).await? {
            let (Some(xid), Some(hex)) = (&row[0], &row[1]) else { bail!("a NULL from the decoder") };
            ensure!(hex.len() == 52, "a Commit of {} hex digits", hex.len());
            let number = |from: usize| u64::from_str_radix(&hex[from..from + 16], 16);
            let unix_micros = number(36)? as i64 + 946_684_800_000_000;
            commits
                .insert(xid.parse()?, Commit { commit_lsn: number(4)?, end_lsn: number(20)?, unix_micros });
        }
        Ok(commits)
    }

    /// Drops slots and database. What holds them is ended first.
    pub async fn drop(&self) -> Result<()> {
        *self.client.lock().await = None;
        let admin = connect(&self.server, "postgres").await?;
        let mine = format!("database = '{}'", self.name);
        let ended = format!(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where {mine} and active"
        );
        admin.batch_execute(&ended).await?;
        let dropped =
            format!("select pg_drop_replication_slot(slot_name) from pg_replication_slots where {mine}");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while let Err(error) = admin.batch_execute(&dropped).await {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "slots of {} can't be dropped: {error}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        admin.batch_execute(&format!("drop database {} with (force)", quote(&self.name))).await?;
        Ok(())
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.plain())
    }
}

/// A session as superuser with pinned rendering.
pub async fn connect(server: &Postgres, database: &str) -> Result<Client> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port).user("postgres").dbname(database).options(PINNED);
    config.application_name("e2e");
    let (client, connection) = config.connect(NoTls).await.context("connect to postgres")?;
    tokio::spawn(connection);
    Ok(client)
}

/// `16/B374D848` as a number.
pub fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').with_context(|| format!("'{text}' is not an LSN"))?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

/// Key and identity from the letter of the replica identity, the primary key and the identity's index.
fn spec(schema: String, table: String, letter: &str, primary: Vec<String>, index: Vec<String>) -> TableSpec {
    let (key, identity) = match letter {
        "f" => (primary, Identity::Full),
        "i" => (index.clone(), Identity::Columns(index)),
        "n" => (primary, Identity::Columns(Vec::new())),
        _ => (primary.clone(), Identity::Columns(primary)),
    };
    TableSpec { schema, table, key, identity }
}

fn spec_of_moment(json: &str) -> Result<TableSpec> {
    type Moment = (String, String, String, Option<Vec<String>>, Option<Vec<String>>);
    let (schema, table, letter, primary, index): Moment =
        serde_json::from_str(json).context("parse a table's state")?;
    Ok(spec(schema, table, &letter, primary.unwrap_or_default(), index.unwrap_or_default()))
}

fn parse_row(json: &str) -> Result<Row> {
    serde_json::from_str(json).context("parse an audited row")
}
