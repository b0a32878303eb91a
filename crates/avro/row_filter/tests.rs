//! Filters are read, compiled and applied as Postgres would; whatever can not be is named.

use headwater_pgoutput::{Message, RelationId, ReplicaIdentity};

use super::*;

const COLUMNS: &[(&str, &str, PgType)] = &[
    ("id", "int8", PgType::Int8),
    ("status", "text", PgType::Text),
    ("total", "numeric", PgType::NumericUnconstrained),
    ("ratio", "float8", PgType::Float8),
    ("single", "float4", PgType::Float4),
    ("paid", "bool", PgType::Bool),
    ("Odd \"name\"", "varchar", PgType::Text),
    ("code", "citext", PgType::Text),
    ("day", "date", PgType::Date),
];

fn table(replica_identity: ReplicaIdentity) -> TableDescription {
    let column = |(name, type_name, pg_type): &(&str, &str, PgType)| ColumnDescription {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
        pg_type: pg_type.clone(),
        not_null: false,
        default: None,
        in_identity: *name == "id" || replica_identity == ReplicaIdentity::Full,
        declared: None,
        key_labels: None,
    };
    TableDescription {
        relation: RelationId(1),
        schema: "public".to_owned(),
        table: "bill".to_owned(),
        replica_identity,
        columns: COLUMNS.iter().map(column).collect(),
        key: vec![0],
    }
}

fn compiled(text: &str) -> Result<FilterPlan, String> {
    let filter = RowFilter::parse(text)?;
    let plan = filter.compile(&table(ReplicaIdentity::Full)).map_err(|error| error.to_string())?;
    Ok(plan.expect("a filter"))
}

/// An Insert message; `None` is NULL, "\u{1}" an unchanged TOAST value.
fn message(cells: &[Option<&str>]) -> Vec<u8> {
    let mut body = b"I\0\0\x40\x01N".to_vec();
    body.extend((cells.len() as u16).to_be_bytes());
    for cell in cells {
        match cell {
            None => body.push(b'n'),
            Some("\u{1}") => body.push(b'u'),
            Some(text) => {
                body.push(b't');
                body.extend((text.len() as u32).to_be_bytes());
                body.extend(text.as_bytes());
            }
        }
    }
    body
}

fn passes(filter: &str, cells: &[Option<&str>]) -> Result<bool, EncodeError> {
    let body = message(cells);
    let Message::Insert(insert) = Message::decode(&body).expect("an insert") else { panic!("no insert") };
    compiled(filter).unwrap_or_else(|error| panic!("{filter}: {error}")).passes(&insert.new, None)
}

#[test]
fn rows_pass_as_in_sql() {
    let full = [
        Some("9007199254740993"),
        Some("it's"),
        Some("10.50"),
        Some("0.1"),
        Some("0.1"),
        Some("t"),
        Some("x"),
        Some("C"),
        Some("2024-02-29"),
    ];
    let nulls = [Some("1"), None, Some("NaN"), Some("NaN"), None, None, None, None, None];
    for (filter, on_full, on_nulls) in [
        ("id = 9007199254740993", true, false),
        ("id > 9007199254740992", true, false),
        ("id <> 1", true, false),
        ("status = 'it''s'", true, false),
        ("status <> 'draft'", true, false),
        ("NOT status = 'draft'", true, false),
        ("status is null", false, true),
        ("status IS NOT NULL", true, false),
        ("status in ('a', 'it''s')", true, false),
        ("status not in ('a', 'b')", true, false),
        ("total = 10.5", true, false),
        ("total > 9.99", true, true),
        ("total >= 10.50000", true, true),
        ("total < 10.51 and total > -10.5", true, false),
        ("total > 1000000000000000000000000", false, true),
        ("ratio = 0.1", true, false),
        ("ratio > 5", false, true),
        // Postgres: 0.1::float4 > 0.1
        ("single > 0.1", true, false),
        ("paid = true", true, false),
        ("paid <> true", false, false),
        ("status = 'a' or total > 1", true, true),
        ("status = 'a' or paid = true or id = 1", true, true),
        ("status <> 'a' and id = 1", false, false),
        ("not (status = 'a' or id = 2)", true, false),
        ("\"Odd \"\"name\"\"\" = 'x'", true, false),
        ("STATUS = 'it''s' AND (paid = TRUE)", true, false),
    ] {
        assert_eq!(passes(filter, &full), Ok(on_full), "{filter}");
        assert_eq!(passes(filter, &nulls), Ok(on_nulls), "{filter} on nulls");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    for (filter, complaint) in [
        ("status <> 'draft' and", "character 22: a column is expected"),
        ("status <> 'draft", "character 11: the quote is not closed"),
        ("status = = 1", "character 10: 'text', a number"),
        ("status 1", "character 8: a comparison"),
        ("(id = 1", "character 8: a closing parenthesis"),
        ("id = 1 id = 2", "character 8: AND, OR or the end"),
        ("id = 1e5", "character 6: a number is written"),
        ("id = 0x10", "character 6: a number is written"),
        ("id = null", "character 6: a value (NULL is tested"),
        ("id ! 1", "character 4: '!' stands only in !="),
        ("id = 1; drop", "character 7: ';' has no meaning"),
        ("'a' = status", "character 1: a column"),
        ("id is 1", "character 7: NULL is expected"),
        ("id not 1", "character 8: IN is expected"),
        ("status = 'ü' and total > 'x", "character 26: the quote"),
    ] {
        let error = RowFilter::parse(filter).expect_err(filter);
        assert!(error.starts_with(complaint), "{filter}: {error}");
    }
    assert!(RowFilter::parse(&"(".repeat(100)).is_err());
    assert!(RowFilter::parse(&"not ".repeat(100_000)).is_err());
    assert_eq!(RowFilter::parse("  "), Ok(RowFilter(None)));
}

#[test]
fn what_cannot_be_compared_as_postgres_does_is_refused() {
    for (filter, complaint) in [
        ("missing = 1", "no column \"missing\""),
        ("Status = 1", "text in single quotes"),
        ("\"Status\" = 'x'", "no column \"Status\""),
        ("status > 'a'", "collation"),
        ("code = 'a'", "not that of its text"),
        ("id = 'a'", "a number"),
        ("paid = 1", "true or false"),
        ("paid > true", "= or <>"),
        ("day > '2024-01-01'", "only be tested with IS NULL"),
    ] {
        let error = compiled(filter).expect_err(filter);
        assert!(error.contains(complaint), "{filter}: {error}");
    }
    let error = RowFilter::parse("total > 1 and id > 2").expect("a filter");
    let error = error.compile(&table(ReplicaIdentity::Default)).expect_err("total isn't in the identity");
    assert!(error.to_string().contains("REPLICA IDENTITY FULL"), "{error}");
    let key_only = RowFilter::parse("id > 2").expect("a filter");
    assert!(key_only.compile(&table(ReplicaIdentity::Default)).is_ok());
}

#[test]
fn an_unchanged_value_is_taken_from_the_old_row_or_unknown() {
    let mut cells = [None; 9];
    cells[1] = Some("\u{1}");
    assert!(matches!(passes("status = 'a'", &cells), Err(EncodeError::UnchangedWithoutOldValue { .. })));
    let (new, old) = (message(&cells), message(&[None, Some("a"), None, None, None, None, None, None, None]));
    let tuple = |body| match Message::decode(body) {
        Ok(Message::Insert(insert)) => insert.new,
        _ => panic!("no insert"),
    };
    let plan = compiled("status = 'a'").expect("a filter");
    assert_eq!(plan.passes(&tuple(&new), Some(&tuple(&old))), Ok(true));
}
