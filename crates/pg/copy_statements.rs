//! The statements that copy a published table: all of it, some pages of it, the next rows of its key, some keys.
//!
//! Columns are named, in the order of the Relation message, since a partition may have them in another one. A plain
//! table is read with ONLY: in a publication those that inherit from it are tables of their own.
//!
//! Filters are SQL of the publication or of whoever configured them, each in parentheses of its own. They run with
//! `search_path = pg_catalog`.

use std::ops::Range;

use crate::catalog::{quote_identifier, quote_literal};
use crate::snapshot_tables::{Leaf, SnapshotTable};

impl SnapshotTable {
    /// Copies a leaf, or some of its pages. A range that ends with `u32::MAX` has no end.
    pub fn copy_pages(&self, leaf: &Leaf, pages: Option<Range<u32>>, filter: Option<&str>) -> String {
        let mut conditions = self.filters(filter);
        if let Some(pages) = pages {
            if pages.start > 0 {
                conditions.push(format!("ctid >= '({},0)'::tid", pages.start));
            }
            if pages.end < u32::MAX {
                conditions.push(format!("ctid < '({},0)'::tid", pages.end));
            }
        }
        let source = format!("ONLY {}", qualified(&leaf.schema, &leaf.name));
        format!("COPY ({}) TO STDOUT", self.select(&source, &conditions))
    }

    /// Copies the first rows by key, or the first of those after a key, which is given as text. Panics if the table
    /// has no key or `after` is not one of it.
    pub fn copy_chunk(&self, after: Option<&[String]>, limit: u64, filter: Option<&str>) -> String {
        assert!(!self.key.is_empty(), "a table without a key has no first rows");
        let mut conditions = self.filters(filter);
        conditions.extend(self.silent_leaves_left_out());
        if let Some(after) = after {
            conditions.push(format!("{} > {}", self.key_names(), self.key_values(after, true)));
        }
        let names: Vec<_> = self.key.iter().map(|column| quote_identifier(&column.name)).collect();
        format!(
            "COPY ({} ORDER BY {} LIMIT {limit}) TO STDOUT",
            self.select(&self.source(), &conditions),
            names.join(", ")
        )
    }

    /// Copies the rows with these keys, each given as text. Panics as `copy_chunk`.
    pub fn copy_keys(&self, keys: &[Vec<String>], filter: Option<&str>) -> String {
        assert!(!self.key.is_empty(), "a table without a key has no rows by key");
        let mut conditions = self.filters(filter);
        conditions.extend(self.silent_leaves_left_out());
        conditions.push(match (self.key.as_slice(), keys) {
            (_, []) => "false".to_owned(),
            // The server makes one look into the index of it.
            ([_], keys) => {
                let values: Vec<_> = keys.iter().map(|key| self.key_values(key, true)).collect();
                format!("{} IN ({})", self.key_names(), values.join(", "))
            }
            (_, keys) => {
                // The first row says of which type the others are.
                let rows = keys.iter().enumerate().map(|(index, key)| self.key_values(key, index == 0));
                format!("{} IN (VALUES {})", self.key_names(), rows.collect::<Vec<_>>().join(", "))
            }
        });
        format!("COPY ({}) TO STDOUT", self.select(&self.source(), &conditions))
    }

    fn source(&self) -> String {
        let only = if self.relkind == 'p' { "" } else { "ONLY " };
        format!("{only}{}", qualified(&self.table.namespace, &self.table.name))
    }

    fn select(&self, source: &str, conditions: &[String]) -> String {
        let columns: Vec<_> =
            self.table.columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!("SELECT {} FROM {source}{conditions}", columns.join(", "))
    }

    fn filters(&self, filter: Option<&str>) -> Vec<String> {
        // The line break ends a comment, with which the filter may end.
        self.row_filter.as_deref().into_iter().chain(filter).map(|filter| format!("({filter}\n)")).collect()
    }

    fn silent_leaves_left_out(&self) -> Option<String> {
        let oids: Vec<_> = self.silent_leaves.iter().map(|leaf| leaf.oid.to_string()).collect();
        (!oids.is_empty()).then(|| format!("tableoid NOT IN ({})", oids.join(", ")))
    }

    fn key_names(&self) -> String {
        row_of(self.key.iter().map(|column| quote_identifier(&column.name)))
    }

    fn key_values(&self, values: &[String], typed: bool) -> String {
        assert_eq!(values.len(), self.key.len(), "a key has a value for each of its columns");
        row_of(self.key.iter().zip(values).map(|(column, value)| {
            let literal = quote_literal(value);
            if typed { format!("{literal}::{}", column.type_sql) } else { literal }
        }))
    }
}

fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

fn row_of(parts: impl ExactSizeIterator<Item = String>) -> String {
    let single = parts.len() == 1;
    let list = parts.collect::<Vec<_>>().join(", ");
    if single { list } else { format!("({list})") }
}

#[cfg(test)]
mod tests {
    use headwater_pgoutput::{RelationId, ReplicaIdentity, TableColumn, TableSchema};

    use super::*;
    use crate::snapshot_tables::KeyColumn;

    fn leaf(oid: u32, name: &str) -> Leaf {
        Leaf { oid, schema: "s".to_owned(), name: name.to_owned(), pages: 1, estimated_rows: 1, filenode: 1 }
    }

    fn table(columns: &[&str], key: &[(&str, &str)]) -> SnapshotTable {
        let names = columns.iter().map(|name| (*name).to_owned());
        SnapshotTable {
            table: TableSchema {
                id: RelationId(1),
                namespace: "s".to_owned(),
                name: "t\"T".to_owned(),
                replica_identity: ReplicaIdentity::Default,
                columns: names
                    .map(|name| TableColumn { name, type_oid: 23, type_modifier: -1, is_key: false })
                    .collect(),
            },
            relkind: 'r',
            row_filter: None,
            key: key
                .iter()
                .map(|(name, type_sql)| KeyColumn {
                    name: (*name).to_owned(),
                    index: columns.iter().position(|column| column == name).expect("a column"),
                    type_sql: (*type_sql).to_owned(),
                })
                .collect(),
            leaves: vec![leaf(1, "t\"T")],
            silent_leaves: Vec::new(),
            row_security: false,
            may_select: true,
            may_select_pages: true,
            toastable: false,
        }
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn pages() {
        let mut table = table(&["a", "B b"], &[]);
        let check = |table: &SnapshotTable, pages: Option<Range<u32>>, filter: Option<&str>, wanted: &str| {
            let wanted = format!("COPY (SELECT {wanted}) TO STDOUT");
            assert_eq!(table.copy_pages(&table.leaves[0], pages, filter), wanted);
        };
        check(&table, None, None, r#""a", "B b" FROM ONLY "s"."t""T""#);
        check(&table, Some(0..10), None, r#""a", "B b" FROM ONLY "s"."t""T" WHERE ctid < '(10,0)'::tid"#);
        check(
            &table,
            Some(10..20),
            Some("a > 1 -- so"),
            "\"a\", \"B b\" FROM ONLY \"s\".\"t\"\"T\" WHERE (a > 1 -- so\n) AND ctid >= '(10,0)'::tid AND ctid < '(20,0)'::tid",
        );
        table.row_filter = Some("(a > 0) OR (b)".to_owned());
        check(
            &table,
            Some(10..u32::MAX),
            Some("c"),
            "\"a\", \"B b\" FROM ONLY \"s\".\"t\"\"T\" WHERE ((a > 0) OR (b)\n) AND (c\n) AND ctid >= '(10,0)'::tid",
        );
        check(&super::tests::table(&[], &[]), None, None, r#" FROM ONLY "s"."t""T""#);
    }

    #[test]
    fn chunks_and_keys() {
        let single = table(&["k", "v"], &[("k", "bigint")]);
        let mut pair = table(&["a", "v", "B"], &[("B", "text"), ("a", "s.\"E\"")]);
        pair.relkind = 'p';
        pair.silent_leaves = vec![leaf(7, "f"), leaf(8, "g")];
        let check = |statement: String, wanted: &str| {
            assert_eq!(statement, format!("COPY (SELECT {wanted}) TO STDOUT"));
        };
        check(single.copy_chunk(None, 10, None), r#""k", "v" FROM ONLY "s"."t""T" ORDER BY "k" LIMIT 10"#);
        check(
            single.copy_chunk(Some(&texts(&["7"])), 10, Some("v > 1")),
            "\"k\", \"v\" FROM ONLY \"s\".\"t\"\"T\" WHERE (v > 1\n) AND \"k\" > '7'::bigint ORDER BY \"k\" LIMIT 10",
        );
        check(
            pair.copy_chunk(Some(&texts(&["it's", "x"])), 5, None),
            r#""a", "v", "B" FROM "s"."t""T" WHERE tableoid NOT IN (7, 8) AND ("B", "a") > ('it''s'::text, 'x'::s."E") ORDER BY "B", "a" LIMIT 5"#,
        );
        check(single.copy_keys(&[], None), r#""k", "v" FROM ONLY "s"."t""T" WHERE false"#);
        check(
            single.copy_keys(&[texts(&["1"]), texts(&["2"])], None),
            r#""k", "v" FROM ONLY "s"."t""T" WHERE "k" IN ('1'::bigint, '2'::bigint)"#,
        );
        check(
            pair.copy_keys(&[texts(&["b", "x"]), texts(&["c", "y"])], None),
            r#""a", "v", "B" FROM "s"."t""T" WHERE tableoid NOT IN (7, 8) AND ("B", "a") IN (VALUES ('b'::text, 'x'::s."E"), ('c', 'y'))"#,
        );
    }
}
