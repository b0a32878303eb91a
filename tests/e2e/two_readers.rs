//! Random tables of random types with random rows, as proptest makes them: what two readers find in Kafka,
//! apache-avro and Python's fastavro, is what Postgres renders. A table that fails is made smaller until it can't be.
//!
//! `PROPTEST_CASES` is the number of random tables; the same tables come first in every run.

mod kinds;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use proptest::prelude::*;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config as CaseConfig, RngAlgorithm, TestError, TestRng, TestRunner};
use tokio::runtime::Handle;

use crate::harness::cell::Cell;
use crate::harness::database::PUBLICATION;
use crate::harness::decode::Decoder;
use crate::harness::evidence::Cells;
use crate::harness::fastavro::{Fastavro, Rows};
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Headwater;
use crate::harness::kafka::Raw;
use crate::harness::until;
use kinds::{DEFINITIONS, KINDS, Kind, Style};

/// Rows of each table.
const ROWS: usize = 6;
/// Random tables of each style, unless the environment says another number.
const CASES: u32 = 12;
/// A table that can't be made smaller than this is named by the column that is wrong.
const SHOWN_COLUMNS: usize = 4;

/// A column and its values.
#[derive(Clone, Debug)]
struct Column {
    /// Its place in [`KINDS`].
    kind: usize,
    array: bool,
    /// It is NOT NULL and no value is NULL.
    not_null: bool,
    values: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    One(String),
    List(Vec<Option<String>>),
}

/// A table and its rows; printed as SQL.
#[derive(Clone)]
struct Table {
    /// REPLICA IDENTITY FULL.
    full: bool,
    columns: Vec<Column>,
}

fn column(kind: usize, array: bool, not_null: bool, style: Style) -> impl Strategy<Value = Column> {
    let literal = (KINDS[kind].values)(style);
    let value: BoxedStrategy<Value> = if array {
        let elements = proptest::collection::vec(proptest::option::weighted(0.8, literal), 0..4);
        elements.prop_map(Value::List).boxed()
    } else {
        literal.prop_map(Value::One).boxed()
    };
    let value = if not_null { value } else { prop_oneof![1 => Just(Value::Null), 4 => value].boxed() };
    let values = proptest::collection::vec(value, ROWS);
    values.prop_map(move |values| Column { kind, array, not_null, values })
}

/// A few columns of any types.
fn any_table(style: Style) -> impl Strategy<Value = Table> {
    let any_column = (0..KINDS.len(), any::<bool>(), any::<bool>())
        .prop_flat_map(move |(kind, array, not_null)| column(kind, array, not_null, style));
    (any::<bool>(), proptest::collection::vec(any_column, 0..10))
        .prop_map(|(full, columns)| Table { full, columns })
}

/// A column of every type, and an array of it.
fn whole_table(style: Style) -> impl Strategy<Value = Table> {
    let columns: Vec<_> = (0..KINDS.len())
        .flat_map(|kind| [false, true].map(|array| column(kind, array, false, style)))
        .collect();
    columns.prop_map(|columns| Table { full: true, columns })
}

impl Table {
    fn created(&self, name: &str) -> String {
        let columns = self.columns.iter().enumerate().map(|(index, column)| column.definition(index));
        let columns: Vec<_> = std::iter::once("id int primary key".to_owned()).chain(columns).collect();
        let identity = if self.full { "full" } else { "default" };
        format!(
            "create table {name} ({}); alter table {name} replica identity {identity}",
            columns.join(", ")
        )
    }

    /// One row by one: in VALUES lists of several the literals would be text.
    fn filled(&self, name: &str) -> String {
        let insert = |id: usize| {
            let values = self.columns.iter().map(|column| column.literal(id));
            let values: Vec<_> = std::iter::once(id.to_string()).chain(values).collect();
            format!("insert into {name} values ({})", values.join(", "))
        };
        (0..ROWS).map(insert).collect::<Vec<_>>().join(";\n")
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.columns.len() {
            0..=SHOWN_COLUMNS => write!(f, "{};\n{};", self.created("it"), self.filled("it")),
            many => write!(f, "a table of {many} columns"),
        }
    }
}

impl Column {
    fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    fn definition(&self, index: usize) -> String {
        let (name, brackets) = (self.kind().name, if self.array { "[]" } else { "" });
        format!("c{index} {name}{brackets}{}", if self.not_null { " not null" } else { "" })
    }

    fn literal(&self, row: usize) -> String {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        match &self.values[row] {
            Value::Null => "null".to_owned(),
            Value::One(text) => quote(text),
            Value::List(items) => {
                let items = items.iter().map(|item| item.as_deref().map_or("null".to_owned(), quote));
                format!("array[{}]::{}[]", items.collect::<Vec<_>>().join(","), self.kind().name)
            }
        }
    }

    /// The SQL expression whose text a record has to have.
    fn rendered(&self, index: usize, style: Style) -> String {
        let expression = self.kind().rendered[style as usize];
        let column = format!("c{index}");
        match self.array {
            _ if expression == "x" => column,
            false => format!("(select {expression} from (select {column}) v(x))"),
            true => format!(
                "case when {column} is not null then
                   array(select {expression} from unnest({column}) with ordinality u(x, n) order by n) end"
            ),
        }
    }
}

/// Rows by the text of their id.
type Expected = BTreeMap<String, Vec<Option<String>>>;

/// What checks table after table.
struct Readers<'a> {
    test: &'a Fixture,
    style: Style,
    headwater: Headwater,
    rust: Decoder,
    python: Fastavro,
    tables: u32,
    /// It halted, so that no smaller table can be tried.
    halted: bool,
}

impl Readers<'_> {
    async fn check(&mut self, table: &Table) -> Result<()> {
        if self.halted {
            return Ok(());
        }
        self.tables += 1;
        let name = format!("random_{}", self.tables);
        let expected = self.write(&name, table).await?;
        self.settle().await?;
        let records = self.test.raw_topic(&self.test.topic(&format!("public.{name}")))?;
        let mut rows_seen = 0;
        for raw in &records {
            tokio::task::block_in_place(|| self.check_record(raw, table, &expected, &mut rows_seen))
                .with_context(|| format!("offset {} of partition {}", raw.offset, raw.partition))?;
        }
        // A create and a delete; tombstones have no rows.
        ensure!(rows_seen == 2 * ROWS && records.len() == 3 * ROWS, "{} records", records.len());
        Ok(())
    }

    /// Creates, fills and empties a table; returns its rows as Postgres renders them.
    async fn write(&self, name: &str, table: &Table) -> Result<Expected> {
        let columns = table.columns.iter().enumerate();
        let rendered: Vec<_> = std::iter::once("id".to_owned())
            .chain(columns.map(|(index, column)| column.rendered(index, self.style)))
            .collect();
        let database = &self.test.database;
        database
            .execute(&format!("{}; alter publication {PUBLICATION} add table {name}", table.created(name)))
            .await?;
        database.execute(&table.filled(name)).await?;
        let rows = database.rows(&format!("select {} from {name}", rendered.join(", "))).await?;
        database.execute(&format!("delete from {name}")).await?;
        rows.into_iter()
            .map(|row| {
                let mut cells = row.into_iter();
                Ok((cells.next().flatten().context("no id")?, cells.collect()))
            })
            .collect()
    }

    async fn settle(&mut self) -> Result<()> {
        let target = self.test.database.lsn("select pg_current_wal_flush_lsn()").await?;
        let headwater = &mut self.headwater;
        let settled = until(Duration::from_secs(60), "the slot to catch up", async || {
            ensure!(headwater.get("/healthz").is_some(), "it ended");
            Ok(self.test.database.confirmed().await?.is_some_and(|confirmed| confirmed >= target))
        });
        self.halted = true;
        settled.await.with_context(|| self.headwater.log_tail())?;
        self.halted = false;
        Ok(())
    }

    fn check_record(
        &mut self,
        raw: &Raw,
        table: &Table,
        expected: &Expected,
        rows_seen: &mut usize,
    ) -> Result<()> {
        let python = self.python.read(raw).context("fastavro")?;
        let rust = rows_of(&mut self.rust, raw).context("apache-avro")?;
        for (reader, rows) in [("apache-avro", rust), ("fastavro", python)] {
            let id = rows.key.as_deref().and_then(|key| text_of(key, "id")).context("no id in the key")?;
            let expected = expected.get(&id).context("a row that isn't there")?;
            let compare = |image: &Cells| compare(image, &id, table, expected);
            match (&rows.before, &rows.after) {
                (None, Some(after)) => compare(after),
                (Some(before), None) if table.full => compare(before),
                (Some(before), None) => match text_of(before, "id") == Some(id) {
                    true => Ok(()),
                    false => bail!("the old row has another id"),
                },
                (None, None) => continue,
                (Some(_), Some(_)) => bail!("no row is updated here"),
            }
            .context(reader)?;
        }
        *rows_seen += usize::from(raw.value.is_some());
        Ok(())
    }
}

fn rows_of(decoder: &mut Decoder, raw: &Raw) -> Result<Rows> {
    let key = raw.key.as_deref().map(|bytes| decoder.decode(bytes)?.key()).transpose()?;
    let change = raw.value.as_deref().map(|bytes| decoder.decode(bytes)?.change()).transpose()?;
    let (before, after) = change.map_or((None, None), |change| (change.before, change.after));
    Ok(Rows { key, before, after })
}

fn text_of(cells: &[(String, Cell)], name: &str) -> Option<String> {
    cells.iter().find_map(|(column, cell)| match cell {
        Cell::Text(text) if column == name => Some(text.clone()),
        _ => None,
    })
}

fn compare(image: &Cells, id: &str, table: &Table, expected: &[Option<String>]) -> Result<()> {
    ensure!(image.len() == table.columns.len() + 1, "{} columns", image.len());
    ensure!(text_of(image, "id").as_deref() == Some(id), "another id than its key's");
    for (index, (column, expected)) in table.columns.iter().zip(expected).enumerate() {
        let name = format!("c{index}");
        let cell = image.iter().find(|(column, _)| *column == name).map(|(_, cell)| cell);
        let cell = cell.with_context(|| format!("no column {name}"))?;
        ensure!(
            cell.equals(expected.as_deref()),
            "row {id}, {}: {cell:?}, and Postgres has {expected:?}",
            column.definition(index)
        );
    }
    Ok(())
}

async fn readers_agree(test: &mut Fixture, style: Style) -> Result<()> {
    test.database
        .execute(&format!(
            "{DEFINITIONS} create table anchor (id int primary key);
             create publication {PUBLICATION} for table anchor"
        ))
        .await?;
    test.expect_complaint("no Avro form of its own");
    let types = match style {
        Style::Connect => "connect",
        Style::Avro => "avro",
    };
    let mut headwater = test.spawn(test.config().set("records.types", types))?;
    headwater.streaming().await?;
    let readers = RefCell::new(Readers {
        python: Fastavro::start(&test.kafka.registry)?,
        rust: Decoder::new(&test.kafka.registry),
        test,
        style,
        headwater,
        tables: 0,
        halted: false,
    });
    let check = |table: Table| {
        let outcome = Handle::current().block_on(readers.borrow_mut().check(&table));
        outcome.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    };
    tokio::task::block_in_place(|| {
        // What is wrong with a column of every type is said in full; there is nothing to make smaller.
        runner(2, 0).run(&whole_table(style), check)?;
        runner(cases(), 300).run(&any_table(style), check)
    })
    .map_err(|error: TestError<Table>| anyhow::anyhow!("{error}"))?;
    let Readers { mut headwater, tables, .. } = readers.into_inner();
    println!("{tables} tables in the style {types}");
    headwater.stop().await
}

/// Equal tables in every run; none is written down beside the tests.
fn runner(cases: u32, max_shrink_iters: u32) -> TestRunner {
    let config = CaseConfig { cases, failure_persistence: None, max_shrink_iters, ..CaseConfig::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES)
}

#[test]
fn two_readers_agree_with_postgres() {
    on_shared("two_readers", async |test| readers_agree(test, Style::Connect).await);
}

#[test]
fn two_readers_agree_in_avros_own_style() {
    on_shared("two_readers_avro", async |test| readers_agree(test, Style::Avro).await);
}
