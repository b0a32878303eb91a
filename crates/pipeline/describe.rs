//! From a Relation message and today's catalog to the description that plans are made from. Pure.
//!
//! The Relation message decides which columns there are, in which order and of which type; the catalog adds what the
//! message doesn't carry. A column that the catalog no longer has under that name and type is nullable and has no
//! default: the catalog speaks of another column then.

use std::collections::HashMap;

use headwater_avro::{ColumnDescription, Declared, PgType, TableDescription};
use headwater_pg::catalog::{CatalogColumn, CatalogTable, CatalogType, TypeKind};
use headwater_pgoutput::{ReplicaIdentity, TableColumn, TableSchema};

/// How deep a domain may stand on domains before we stop believing it.
const DOMAIN_DEPTH_MAX: usize = 32;

/// The types of a relation that need a look at the catalog.
pub(crate) fn types_to_look_up(table: &TableSchema) -> Vec<u32> {
    let mut oids: Vec<u32> = table
        .columns
        .iter()
        .filter(|column| PgType::builtin(column.type_oid, column.type_modifier).is_none())
        .map(|column| column.type_oid)
        .collect();
    oids.sort_unstable();
    oids.dedup();
    oids
}

/// The description of a table.
pub(crate) fn describe(
    table: &TableSchema,
    catalog: Option<&CatalogTable>,
    types: &[CatalogType],
) -> TableDescription {
    let types: HashMap<u32, &CatalogType> = types.iter().map(|each| (each.oid, each)).collect();
    let columns = table
        .columns
        .iter()
        .map(|column| {
            let known = catalog
                .and_then(|catalog| catalog.columns.iter().find(|known| known.name == column.name))
                .filter(|known| known.type_oid == column.type_oid);
            describe_column(column, known, &types)
        })
        .collect();
    TableDescription {
        relation: table.id,
        schema: table.namespace.clone(),
        table: table.name.clone(),
        replica_identity: table.replica_identity,
        columns,
        key: key_columns(table, catalog),
    }
}

fn describe_column(
    column: &TableColumn,
    known: Option<&CatalogColumn>,
    types: &HashMap<u32, &CatalogType>,
) -> ColumnDescription {
    let pg_type = resolve_type(column.type_oid, column.type_modifier, types, 0);
    let type_name = match types.get(&column.type_oid) {
        Some(known) => known.name.clone(),
        None => PgType::builtin_name(column.type_oid).unwrap_or_else(|| format!("type {}", column.type_oid)),
    };
    ColumnDescription {
        name: column.name.clone(),
        type_name,
        default: known.and_then(|known| constant_default(known, &pg_type)),
        pg_type,
        not_null: known.is_some_and(|known| known.not_null),
        in_identity: column.is_key,
        declared: Some(Declared {
            modifier: modifier_of(column.type_oid, column.type_modifier, types),
            serial: known.is_some_and(is_serial),
        }),
        key_labels: None,
    }
}

/// A column's modifier, or that of the type below its domains.
fn modifier_of(oid: u32, modifier: i32, types: &HashMap<u32, &CatalogType>) -> i32 {
    let (mut oid, mut modifier) = (oid, modifier);
    for _ in 0..DOMAIN_DEPTH_MAX {
        let Some(TypeKind::Domain { base_oid, type_modifier }) = types.get(&oid).map(|known| &known.kind)
        else {
            break;
        };
        (oid, modifier) = (*base_oid, *type_modifier);
    }
    modifier
}

fn is_serial(column: &CatalogColumn) -> bool {
    column.default_expression.as_deref().is_some_and(|expression| expression.starts_with("nextval("))
}

fn resolve_type(oid: u32, modifier: i32, types: &HashMap<u32, &CatalogType>, depth: usize) -> PgType {
    if let Some(builtin) = PgType::builtin(oid, modifier) {
        return builtin;
    }
    let Some(known) = types.get(&oid).filter(|_| depth < DOMAIN_DEPTH_MAX) else { return PgType::Other };
    match &known.kind {
        TypeKind::Domain { base_oid, type_modifier } => {
            resolve_type(*base_oid, *type_modifier, types, depth + 1)
        }
        TypeKind::Enum { labels } => PgType::Enum { labels: labels.clone() },
        TypeKind::Array { element_oid } => match resolve_type(*element_oid, modifier, types, depth + 1) {
            // An array of what we don't know keeps its text as a whole; nested arrays are one type in Postgres.
            PgType::Other | PgType::Array(_) => PgType::Other,
            element => PgType::Array(Box::new(element)),
        },
        TypeKind::Base => extension_type(known, modifier).unwrap_or(PgType::Other),
        TypeKind::Composite | TypeKind::Range | TypeKind::Multirange | TypeKind::Pseudo => PgType::Verbatim,
    }
}

/// The types of extensions that have rows of their own. A name alone says nothing: anybody can create a type
/// `vector`.
fn extension_type(known: &CatalogType, modifier: i32) -> Option<PgType> {
    Some(match (known.extension.as_deref()?, known.name.as_str()) {
        ("citext", "citext") | ("isn", "isbn") => PgType::Text,
        ("hstore", "hstore") => PgType::Hstore,
        ("ltree", "ltree") => PgType::Ltree,
        ("postgis", "geometry") => PgType::Geometry,
        ("postgis", "geography") => PgType::Geography,
        ("vector", "vector") => PgType::Vector,
        ("vector", "halfvec") => PgType::Halfvec,
        // The modifier is the number of dimensions.
        ("vector", "sparsevec") => PgType::Sparsevec { dimensions: u32::try_from(modifier).ok() },
        _ => return None,
    })
}

/// The record key: the primary key in its own order where every old tuple carries it, else the replica identity's
/// columns, else none.
fn key_columns(table: &TableSchema, catalog: Option<&CatalogTable>) -> Vec<usize> {
    let position = |name: &String| table.columns.iter().position(|column| column.name == *name);
    let in_order =
        |names: &[String]| names.iter().map(position).collect::<Option<Vec<usize>>>().unwrap_or_default();
    let primary_key = catalog.map(|catalog| in_order(&catalog.primary_key)).unwrap_or_default();
    let identity: Vec<usize> =
        table.columns.iter().enumerate().filter(|(_, column)| column.is_key).map(|(at, _)| at).collect();
    match table.replica_identity {
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => primary_key,
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            if !primary_key.is_empty() && primary_key.iter().all(|at| identity.contains(at)) {
                return primary_key;
            }
            let index = catalog.map(|catalog| in_order(&catalog.identity_index)).unwrap_or_default();
            let same_columns = index.len() == identity.len() && index.iter().all(|at| identity.contains(at));
            if same_columns { index } else { identity }
        }
    }
}

/// A default that is a constant, as Postgres' text of the value. A sequence's default is 0, as Debezium has it;
/// any other expression has no value that would be true of every row.
fn constant_default(column: &CatalogColumn, pg_type: &PgType) -> Option<String> {
    if column.generated {
        return None;
    }
    let expression = column.default_expression.as_deref()?;
    if is_serial(column) {
        return matches!(pg_type, PgType::Int2 | PgType::Int4 | PgType::Int8).then(|| "0".to_owned());
    }
    // Bit strings are written B'101'.
    let unprefixed = match pg_type {
        PgType::Bits { .. } => expression.strip_prefix('B').unwrap_or(expression),
        _ => expression,
    };
    let (literal, rest) = match unprefixed.strip_prefix('\'') {
        Some(quoted) => split_quoted(quoted)?,
        None => {
            let end = expression.find("::").unwrap_or(expression.len());
            let literal = expression[..end].trim_start_matches('(').trim_end_matches(')');
            let plain = matches!(literal, "true" | "false") || literal.parse::<f64>().is_ok();
            if !plain {
                return None;
            }
            (literal.to_owned(), &expression[end..])
        }
    };
    is_cast_or_nothing(rest).then_some(literal)
}

/// `it''s'::text` -> `it's` and `::text`.
fn split_quoted(quoted: &str) -> Option<(String, &str)> {
    let mut literal = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('\'')?;
        literal.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(after) => {
                literal.push('\'');
                rest = after;
            }
            None => return Some((literal, rest)),
        }
    }
}

/// Nothing, or casts to a type: `::numeric(10,2)`, `::character varying`, `::"Status"`, `::integer[]`.
fn is_cast_or_nothing(rest: &str) -> bool {
    let allowed = |c: char| {
        c.is_alphanumeric() || matches!(c, '_' | ' ' | '"' | '.' | '(' | ')' | ',' | '[' | ']' | ':')
    };
    rest.is_empty() || (rest.starts_with("::") && rest.chars().all(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_pgoutput::RelationId;

    const INT4: u32 = 23;
    const TEXT: u32 = 25;

    fn relation(identity: ReplicaIdentity, columns: &[(&str, u32, bool)]) -> TableSchema {
        TableSchema {
            id: RelationId(1),
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: identity,
            columns: columns
                .iter()
                .map(|(name, type_oid, is_key)| TableColumn {
                    name: (*name).to_owned(),
                    type_oid: *type_oid,
                    type_modifier: -1,
                    is_key: *is_key,
                })
                .collect(),
        }
    }

    fn column(name: &str, type_oid: u32, default: Option<&str>) -> CatalogColumn {
        CatalogColumn {
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
            not_null: true,
            default_expression: default.map(str::to_owned),
            identity_or_serial: false,
            generated: false,
        }
    }

    fn catalog(columns: Vec<CatalogColumn>, primary_key: &[&str], identity_index: &[&str]) -> CatalogTable {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        CatalogTable {
            relkind: 'r',
            columns,
            primary_key: names(primary_key),
            identity_index: names(identity_index),
        }
    }

    #[test]
    fn keys_follow_the_primary_key_where_old_rows_carry_it() {
        use ReplicaIdentity::{Default, Full, Index, Nothing};
        let check = |identity, flags: [bool; 3], primary_key: &[&str], index: &[&str], expected: &[usize]| {
            let table =
                relation(identity, &[("a", INT4, flags[0]), ("b", INT4, flags[1]), ("c", INT4, flags[2])]);
            let catalog = catalog(Vec::new(), primary_key, index);
            assert_eq!(
                key_columns(&table, Some(&catalog)),
                expected,
                "{identity:?} {primary_key:?} {index:?}"
            );
        };
        check(Default, [true, true, false], &["b", "a"], &[], &[1, 0]);
        check(Default, [false, false, false], &[], &[], &[]);
        check(Index, [false, true, false], &["a"], &["b"], &[1]);
        check(Index, [false, true, true], &["a"], &["c", "b"], &[2, 1]);
        check(Index, [true, true, false], &["a"], &["b", "a"], &[0]);
        check(Full, [true, true, true], &["c"], &[], &[2]);
        check(Full, [true, true, true], &[], &[], &[]);
        check(Nothing, [false, false, false], &["a"], &[], &[0]);
        // The catalog has moved on: the message's own flags decide.
        check(Default, [true, false, false], &["renamed"], &[], &[0]);
        assert_eq!(key_columns(&relation(Default, &[("a", INT4, true)]), None), [0]);
    }

    #[test]
    fn a_column_that_the_catalog_no_longer_has_is_nullable_without_default() {
        let table = relation(
            ReplicaIdentity::Default,
            &[("a", INT4, true), ("gone", TEXT, false), ("retyped", TEXT, false)],
        );
        let catalog =
            catalog(vec![column("a", INT4, Some("1")), column("retyped", INT4, Some("1"))], &["a"], &[]);
        let description = describe(&table, Some(&catalog), &[]);
        let facts: Vec<_> = description.columns.iter().map(|c| (c.not_null, c.default.as_deref())).collect();
        assert_eq!(facts, [(true, Some("1")), (false, None), (false, None)]);
    }

    #[test]
    fn only_constants_are_defaults() {
        let check = |expression: &str, pg_type: PgType, expected: Option<&str>| {
            let found = constant_default(&column("c", TEXT, Some(expression)), &pg_type);
            assert_eq!(found.as_deref(), expected, "{expression}");
        };
        check("42", PgType::Int4, Some("42"));
        check("'-5'::integer", PgType::Int4, Some("-5"));
        check("(-5)", PgType::Int4, Some("-5"));
        check("true", PgType::Bool, Some("true"));
        check("'hi'::text", PgType::Text, Some("hi"));
        check("'it''s'::character varying(20)", PgType::Text, Some("it's"));
        check("''::text", PgType::Text, Some(""));
        check("'DRAFT'::\"Status\"", PgType::Other, Some("DRAFT"));
        check("9.99", PgType::NumericUnconstrained, Some("9.99"));
        check("nextval('t_id_seq'::regclass)", PgType::Int8, Some("0"));
        check("B'101'::\"bit\"", PgType::Bits { length: 3, varying: false }, Some("101"));
        check("'1 day'::interval", PgType::Interval, Some("1 day"));
        check("now()", PgType::TimestampTz { precision: 6 }, None);
        check("CURRENT_TIMESTAMP", PgType::TimestampTz { precision: 6 }, None);
        check("NULL::text", PgType::Text, None);
        check("('a'::text || 'b'::text)", PgType::Text, None);
        check("'a'::text || 'b'::text", PgType::Text, None);
        check("lower('A'::text)", PgType::Text, None);
        check("'unterminated", PgType::Text, None);
    }

    #[test]
    fn types_resolve_through_domains_and_arrays() {
        let domain = |oid, base_oid| CatalogType {
            oid,
            namespace: "public".to_owned(),
            name: format!("d{oid}"),
            extension: None,
            kind: TypeKind::Domain { base_oid, type_modifier: -1 },
        };
        let kind = |oid, kind| CatalogType {
            oid,
            namespace: "public".to_owned(),
            name: format!("t{oid}"),
            extension: None,
            kind,
        };
        let of_extension = |oid, extension: Option<&str>, name: &str| CatalogType {
            name: name.to_owned(),
            extension: extension.map(str::to_owned),
            ..kind(oid, TypeKind::Base)
        };
        let types = [
            domain(90_001, 90_002),
            domain(90_002, INT4),
            kind(90_003, TypeKind::Enum { labels: vec!["a".to_owned()] }),
            kind(90_004, TypeKind::Array { element_oid: 90_003 }),
            kind(90_005, TypeKind::Composite),
            kind(90_006, TypeKind::Array { element_oid: 90_005 }),
            domain(90_007, 90_007),
            of_extension(90_008, Some("hstore"), "hstore"),
            kind(90_009, TypeKind::Array { element_oid: 90_008 }),
            of_extension(90_010, None, "vector"),
            of_extension(90_011, Some("vector"), "sparsevec"),
            of_extension(90_012, Some("postgis"), "box3d"),
            kind(90_013, TypeKind::Array { element_oid: 90_012 }),
            domain(90_014, 90_011),
        ];
        let types: HashMap<u32, &CatalogType> = types.iter().map(|each| (each.oid, each)).collect();
        assert_eq!(resolve_type(90_011, 40_000, &types, 0), PgType::Sparsevec { dimensions: Some(40_000) });
        let labels = PgType::Enum { labels: vec!["a".to_owned()] };
        for (oid, expected) in [
            (90_001, PgType::Int4),
            (90_004, PgType::Array(Box::new(labels))),
            (90_006, PgType::Array(Box::new(PgType::Verbatim))),
            (90_009, PgType::Array(Box::new(PgType::Hstore))),
            (90_010, PgType::Other),
            (90_011, PgType::Sparsevec { dimensions: None }),
            (90_013, PgType::Other),
            (90_014, PgType::Sparsevec { dimensions: None }),
            (90_007, PgType::Other),
            (99_999, PgType::Other),
        ] {
            assert_eq!(resolve_type(oid, -1, &types, 0), expected, "{oid}");
        }
    }
}
