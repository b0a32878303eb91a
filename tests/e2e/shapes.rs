//! Flat records, JSON, masks, choices of columns and row filters: what a stock consumer finds in the topics.
//!
//! JSON is read by serde_json and Avro by apache-avro; a filter's oracle is Postgres, which has the same one in a
//! publication.

use anyhow::{Context, Result, ensure};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::harness::decode::Decoder;
use crate::harness::fixture::{Fixture, on_shared};
use crate::harness::headwater::Config;
use crate::harness::kafka::{self, Raw};

/// One partition, so that the order of the topic is the order of the changes.
fn config(test: &Fixture) -> Config {
    test.config().set("topics.partitions", 1)
}

fn list(names: &[&str]) -> Value {
    Value::Array(names.iter().map(|&name| name.into()).collect())
}

fn table(pairs: &[(&str, &str)]) -> Value {
    Value::Table(pairs.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect())
}

fn exception(name: &str, pairs: &[(&str, &str)]) -> Table {
    let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.into()));
    [("tables".to_owned(), name.into())].into_iter().chain(pairs).collect()
}

fn as_json(bytes: Option<&[u8]>) -> Result<Json> {
    match bytes {
        None => Ok(Json::Null),
        Some(bytes) => {
            serde_json::from_slice(bytes).with_context(|| String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

/// Key and value of a topic's records as JSON; null is a tombstone.
fn documents(test: &Fixture, table: &str) -> Result<Vec<(Json, Json)>> {
    let records = test.raw_topic(&test.topic(table))?;
    records.iter().map(|raw| Ok((as_json(raw.key.as_deref())?, as_json(raw.value.as_deref())?))).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{what}:\n found    {found:?}\n expected {expected:?}");
    Ok(())
}

/// Flat JSON, deletes in each of their forms, and no registry anywhere.
async fn flat_json(test: &mut Fixture) -> Result<()> {
    let tables = ["tombstoned", "rewritten", "twofold", "dropped"];
    let names = tables.map(|name| format!("public.{name}"));
    let create = tables
        .map(|name| format!("create table {name} (id int primary key, \"odd name\" text, n numeric(10,2));"));
    test.capture(&create.concat(), &names.each_ref().map(String::as_str)).await?;
    let config = config(test)
        .without("schema_registry")
        .set("records.envelope", "flat")
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json")
        .set("records.metadata_fields", list(&["op", "table", "lsn", "source.ts_ms"]))
        .push("table", exception("public.rewritten", &[("flat_deletes", "rewrite")]))
        .push("table", exception("public.twofold", &[("flat_deletes", "rewrite-with-tombstone")]))
        .push("table", exception("public.dropped", &[("flat_deletes", "drop")]));
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    for name in tables {
        for statement in [
            "insert into {} values (1, 'ü \"x\"', 1.10), (2, null, null)",
            "update {} set n = 9.99 where id = 1",
            "update {} set id = 3 where id = 1",
            "delete from {} where id = 3",
        ] {
            test.database.execute(&statement.replace("{}", name)).await?;
        }
    }
    test.settle().await?;
    let dropped = headwater.metric("headwater_skipped_total", &["flat_delete"]).unwrap_or(0.0);
    same("deletes that were left out", dropped, 2.0)?;
    headwater.stop().await?;

    for name in tables {
        let found = documents(test, &format!("public.{name}"))?;
        let row = |id: i32, text: Json, n: Json, op: &str| {
            let mut row = json!({"id": id, "odd name": text, "n": n, "__op": op, "__table": name});
            if matches!(name, "rewritten" | "twofold") {
                row["__deleted"] = if op == "d" { "true" } else { "false" }.into();
            }
            (json!({ "id": id }), row)
        };
        let text = || json!("ü \"x\"");
        let mut expected = vec![
            row(1, text(), json!("bg=="), "c"),
            row(2, Json::Null, Json::Null, "c"),
            row(1, text(), json!("A+c="), "u"),
        ];
        let delete = |id| {
            let (rewritten, tombstone) =
                (row(id, Json::Null, Json::Null, "d"), (json!({ "id": id }), Json::Null));
            match name {
                "tombstoned" => vec![tombstone],
                "rewritten" => vec![rewritten],
                "twofold" => vec![rewritten, tombstone],
                _ => vec![],
            }
        };
        expected.extend(delete(1));
        expected.push(row(3, text(), json!("A+c="), "c"));
        expected.extend(delete(3));
        let without_places = |(key, mut value): (Json, Json)| {
            let fields = value.as_object_mut();
            let places = fields.map(|fields| (fields.remove("__lsn"), fields.remove("__source_ts_ms")));
            let have_places = places.is_none_or(|(lsn, ts)| {
                lsn.is_some_and(|lsn| lsn.as_u64() > Some(0))
                    && ts.is_some_and(|ts| ts.as_u64() > Some(1 << 40))
            });
            ensure!(have_places, "no __lsn or __source_ts_ms");
            Ok((key, value))
        };
        let found = found.into_iter().map(without_places).collect::<Result<Vec<_>>>()?;
        same(name, found, expected)?;
    }
    Ok(())
}

/// Flat Avro as the registry describes it.
async fn flat_avro(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int primary key, name text not null)", &["public.item"]).await?;
    let config = config(test)
        .set("records.envelope", "flat")
        .set("records.metadata_fields", list(&["op:operation", "source.db"]))
        .set("records.metadata_prefix", "_");
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.database.execute("insert into item values (1, 'one'); delete from item").await?;
    test.settle().await?;
    headwater.stop().await?;
    let records = test.raw_topic(&test.topic("public.item"))?;
    ensure!(records.len() == 2 && records[1].value.is_none(), "no row and tombstone: {records:?}");
    let value = records[0].value.clone().context("a value")?;
    let mut decoder = Decoder::new(&test.kafka.registry);
    let datum = tokio::task::block_in_place(|| decoder.decode(&value))?;
    let shown = format!("{:?}", datum.value());
    let database = test.database.value("select current_database()").await?.context("a name")?;
    let expected = format!(
        "Record([(\"id\", Int(1)), (\"name\", String(\"one\")), (\"_operation\", Union(1, String(\"c\"))), \
         (\"_source_db\", Union(1, String({database:?})))])"
    );
    same("the flat record", shown, expected)
}

/// Connect's JSON with schemas, keys and values each their own way.
async fn json_with_schemas(test: &mut Fixture) -> Result<()> {
    test.capture("create table item (id int2 primary key, at date, n numeric(5,1))", &["public.item"])
        .await?;
    let config = config(test)
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json_schema_envelope");
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    test.database.execute("insert into item values (7, '1970-01-02', 1.5)").await?;
    test.settle().await?;
    headwater.stop().await?;
    let found = documents(test, "public.item")?;
    let [(key, value)] = found.as_slice() else { anyhow::bail!("not one record: {found:?}") };
    same("key", key, &json!({"id": 7}))?;
    let payload = &value["payload"];
    same("after", &payload["after"], &json!({"id": 7, "at": 1, "n": "Dw=="}))?;
    same("op", &payload["op"], &json!("c"))?;
    let prefix = test.prefix();
    let after = &value["schema"]["fields"][1];
    let expected = json!({"type": "struct", "optional": true, "field": "after", "name": format!("{prefix}.public.item.Value"), "fields": [
        {"type": "int16", "optional": false, "field": "id"},
        {"type": "int32", "optional": true, "name": "io.debezium.time.Date", "version": 1, "field": "at"},
        {"type": "bytes", "optional": true, "name": "org.apache.kafka.connect.data.Decimal", "version": 1,
         "parameters": {"scale": "1", "connect.decimal.precision": "5"}, "field": "n"}]});
    same("schema of after", after, &expected)?;
    let envelope = &value["schema"];
    same(
        "envelope",
        (&envelope["name"], &envelope["version"]),
        (&json!(format!("{prefix}.public.item.Envelope")), &json!(2)),
    )
}

const SALT: &str = "pepper";
/// HMAC-SHA-256 under the salt, by Python's hmac.
const ANN: &str = "6ef7a5d055ba852ac2fe80ded6dc9d7aea05a917760b05fd78a4e6cc66cca6e2";
const AGE: &str = "f9bc19f7d38f94365fcbd8c95cad5653f347a06e79ebc7d460f49933402cb80b";

const PEOPLE: &str = "
create table person (id int primary key, email text not null, name text, card varchar(40), note text, age int not null,
  secret_a jsonb, secret_b uuid, long text, amount numeric(10,2));
alter table person alter long set storage external, replica identity full;
create table login (email text primary key, at int);
create table avatar (email text primary key, picture text, kept int);
alter table avatar alter picture set storage external;
";

/// Whatever is clear begins so, or is this number.
const CLEAR: &str = "CLEAR";
const CLEAR_AGE: i64 = 4_711_042;

/// Every byte of every topic, headers included.
fn no_clear_text(records: &[Raw]) -> Result<()> {
    let mut needles =
        vec![CLEAR.as_bytes().to_vec(), CLEAR_AGE.to_string().into_bytes(), SALT.as_bytes().to_vec()];
    // The number as Avro writes it, and the uuid and the text in base64.
    let mut zigzag = (CLEAR_AGE << 1) as u64;
    let mut varint = Vec::new();
    while zigzag >= 0x80 {
        varint.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    varint.push(zigzag as u8);
    needles.push(varint);
    needles.push(b"c1ea4000".to_vec());
    for raw in records {
        let headers = raw.headers.iter().map(|(_, value)| Some(value));
        for bytes in [raw.key.as_ref(), raw.value.as_ref()].into_iter().chain(headers).flatten() {
            let found =
                needles.iter().find(|needle| bytes.windows(needle.len()).any(|window| window == *needle));
            ensure!(
                found.is_none(),
                "{:?} is in clear in {}: {:?}",
                found.map(|needle| String::from_utf8_lossy(needle)),
                raw.topic,
                String::from_utf8_lossy(bytes)
            );
        }
    }
    Ok(())
}

async fn masks(test: &mut Fixture, encoding: &str, envelope: &str) -> Result<()> {
    test.capture(PEOPLE, &["public.person", "public.login", "public.avatar"]).await?;
    let masks = [
        ("email", "hash"),
        ("card", "fixed:****"),
        ("note", "truncate:2"),
        ("age", "hash"),
        ("secret_*", "null"),
        ("long", "hash"),
        ("picture", "hash"),
    ];
    let config = config(test)
        .set("records.key_encoding", encoding)
        .set("records.value_encoding", encoding)
        .set("records.envelope", envelope)
        .set("records.flat_deletes", "rewrite-with-tombstone")
        .set("records.masks", table(&masks))
        .push("table", {
            let mut own = exception("public.person", &[]);
            own.insert("columns_exclude".to_owned(), list(&["amount"]));
            own.insert("renames".to_owned(), table(&[("name", "full name")]));
            // A mask of its own takes none of the others away.
            own.insert("masks".to_owned(), table(&[("name", "none")]));
            own
        });
    let mut headwater = test.spawn_with(config, &[("HEADWATER_MASKING__SALT", SALT)])?;
    headwater.streaming().await?;
    for statement in [
        "insert into person values (1, 'CLEAR-ann@example.org', 'Ann', 'CLEAR-1234', 'abCLEAR', 4711042,
           '{\"CLEAR\": 1}', 'c1ea4000-0000-4000-8000-000000000000', repeat('CLEAR', 4000), 1.10),
           (2, 'CLEAR-bob@example.org', null, null, null, 4711042, null, null, null, null)",
        "update person set name = 'Anne' where id = 1",
        "update person set id = 3 where id = 1",
        "delete from person where id = 3",
        "insert into login values ('CLEAR-ann@example.org', 1)",
        "update login set at = 2",
        "update login set email = 'CLEAR-bob@example.org'",
        "delete from login",
        "insert into avatar values ('CLEAR-ann@example.org', repeat('CLEAR', 4000), 1)",
        "update avatar set kept = 2",
    ] {
        test.database.execute(statement).await?;
    }
    test.settle().await?;
    headwater.stop().await?;
    ensure!(!headwater.log_text().contains(SALT) && !headwater.log_text().contains(CLEAR), "the log tells");

    let mut records = tokio::task::block_in_place(|| kafka::read_all(&test.kafka.bootstrap, test.prefix()))?;
    ensure!(records.len() >= 15, "only {} records", records.len());
    let checkpoint = format!("checkpoint.{}", test.prefix());
    records.extend(tokio::task::block_in_place(|| kafka::read_all(&test.kafka.bootstrap, &checkpoint))?);
    no_clear_text(&records)?;
    let contains = |text: &str| {
        let holds = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        records.iter().any(|raw| raw.value.iter().chain(&raw.key).any(holds))
    };
    for (what, text) in [("email", ANN), ("age", AGE), ("card", "****"), ("name", "Anne")] {
        ensure!(contains(text), "{what} is not there as {text}");
    }
    if encoding == "json" && envelope == "flat" {
        let person = documents(test, "public.person")?;
        same("keys of the first row", &person[0].0, &json!({"id": 1}))?;
        let shown = person[0].1.clone();
        same("note", &shown["note"], &json!("ab"))?;
        same("secrets", (&shown["secret_a"], &shown["secret_b"]), (&Json::Null, &Json::Null))?;
        same("full name", &shown["full name"], &json!("Ann"))?;
        ensure!(shown.get("amount").is_none() && shown.get("name").is_none(), "columns of {shown}");
        same("NULL stays NULL", &person[1].1["card"], &Json::Null)?;
        let login = test.raw_topic(&test.topic("public.login"))?;
        same("a hashed key", as_json(login[0].key.as_deref())?, json!({ "email": ANN }))?;
        let old_key = login.iter().find_map(|raw| raw.header("__debezium.oldkey")).context("an old key")?;
        same("a hashed key in a header", as_json(Some(old_key.as_bytes()))?, json!({ "email": ANN }))?;
    }
    Ok(())
}

/// A mask that would make keys alike, or of a type that has no such mask, halts before the first record.
async fn masks_refused(test: &mut Fixture) -> Result<()> {
    test.expect_complaint("");
    test.capture("create table item (id int primary key, day date)", &["public.item"]).await?;
    let config = config(test);
    for (masks, words) in
        [([("id", "fixed:x")], "is in the key"), ([("day", "truncate:4")], "look like another value")]
    {
        let mut headwater = test.spawn(config.clone().set("records.masks", table(&masks)))?;
        headwater.streaming().await?;
        test.database.execute("insert into item select coalesce(max(id), 0) + 1 from item").await?;
        headwater.exit(std::time::Duration::from_secs(60)).await?;
        ensure!(headwater.log_text().contains(words), "not '{words}':\n{}", headwater.log_tail());
    }
    let topic = test.raw_topic(&test.topic("public.item"))?;
    ensure!(topic.is_empty(), "records were written: {topic:?}");
    // Without a salt a hash hides little; and a mask that hides nothing is told.
    let mut headwater = test.spawn(config.clone().set("records.masks", table(&[("day", "hash")])))?;
    headwater.exits_with(2).await?;
    ensure!(headwater.log_text().contains("HEADWATER_MASKING__SALT"), "no advice:\n{}", headwater.log_tail());
    let mut headwater = test.spawn(config.set("records.masks", table(&[("dya", "null")])))?;
    headwater.log_line(&["dya", "matches no column"]).await?;
    headwater.streaming().await?;
    headwater.stop().await
}

const FILTERED: &[&str] = &[
    "insert into {} values (1, 'open', 11, 'x'), (2, 'draft', 99, 'x'), (3, 'open', 10, 'x'), (4, null, 50, 'x'), (5, 'open', null, 'x')",
    "update {} set note = 'y'",
    "update {} set status = 'open' where id = 2",
    "update {} set total = 10.01 where id = 3",
    "update {} set status = 'draft' where id = 1",
    "update {} set id = 20 where id = 2",
    "update {} set id = 40 where id = 4",
    "update {} set id = 50, total = 50 where id = 5",
    "update {} set id = 30, total = -1 where id = 3",
    "delete from {} where id = 1",
    "delete from {} where id = 20",
    "begin; insert into {} values (6, 'open', 7); rollback",
    "insert into {} values (7, 'x', 10.5), (8, 'x', 100)",
    "delete from {} where id = 8",
];

/// The same filter here and in a publication, on two tables with the same history: the same records.
async fn filters(test: &mut Fixture) -> Result<()> {
    let create = |name: &str| {
        format!(
            "create table {name} (id int primary key, status text, total numeric, note text);
             alter table {name} replica identity full;"
        )
    };
    let schema = [create("ours"), create("theirs")].concat();
    test.capture(&schema, &["public.ours"]).await?;
    test.database
        .execute("alter publication captured add table theirs where (status <> 'draft' and total > 10)")
        .await?;
    let mut own = exception("public.ours", &[]);
    own.insert("row_filter".to_owned(), "status <> 'draft' and total > 10".into());
    let config = config(test)
        .set("records.key_encoding", "json")
        .set("records.value_encoding", "json")
        .set("records.decimal_handling", "string")
        .push("table", own);
    let mut headwater = test.spawn(config)?;
    headwater.streaming().await?;
    for statement in FILTERED {
        for name in ["ours", "theirs"] {
            test.database.execute(&statement.replace("{}", name)).await?;
        }
    }
    test.settle().await?;
    let filtered = headwater.metric("headwater_skipped_total", &["filter", "ours"]).unwrap_or(0.0);
    ensure!(filtered > 5.0, "only {filtered} changes were counted as filtered");
    headwater.stop().await?;
    let shown = |table: &str| -> Result<Vec<String>> {
        let shown = |(key, value): &(Json, Json)| {
            format!("{key} {} {} {}", value["op"], value["before"], value["after"])
        };
        Ok(documents(test, table)?.iter().map(shown).collect())
    };
    let (ours, theirs) = (shown("public.ours")?, shown("public.theirs")?);
    ensure!(ours.len() > 10, "only {} records", ours.len());
    same("records under the filter", &ours, &theirs)
}

#[test]
fn flat_rows_as_json_without_a_registry() {
    on_shared("shape_flat_json", flat_json);
}

#[test]
fn flat_rows_as_avro() {
    on_shared("shape_flat_avro", flat_avro);
}

#[test]
fn connects_json_with_schemas() {
    on_shared("shape_json_schemas", json_with_schemas);
}

#[test]
fn masked_values_are_nowhere_in_avro() {
    on_shared("shape_masks_avro", async |test| masks(test, "avro", "debezium").await);
}

#[test]
fn masked_values_are_nowhere_in_json() {
    on_shared("shape_masks_json", async |test| masks(test, "json_schema_envelope", "debezium").await);
}

#[test]
fn masked_values_are_nowhere_in_flat_rows() {
    on_shared("shape_masks_flat", async |test| masks(test, "json", "flat").await);
}

#[test]
fn masks_that_are_none_are_refused() {
    on_shared("shape_masks_refused", masks_refused);
}

#[test]
fn filters_do_what_a_publications_where_does() {
    on_shared("shape_filters", filters);
}
