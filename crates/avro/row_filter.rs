//! Which rows become records: `status <> 'draft' and total > 10`, in SQL's words and three-valued logic.
//!
//! ```text
//! expression  and-term {OR and-term}
//! and-term    not-term {AND not-term}
//! not-term    [NOT] ( "(" expression ")" | comparison )
//! comparison  column (= | <> | != | < | <= | > | >=) literal
//!           | column [NOT] IN "(" literal {, literal} ")"
//!           | column IS [NOT] NULL
//! column      name or "Name"          literal     'text', number, true, false
//! ```
//!
//! Only what can be compared exactly as Postgres does is compared: numbers by value, booleans, and text, uuid and
//! enums for equality (their order depends on a collation). Everything else is refused when the table is resolved.

mod parse;
mod value;

use std::cmp::Ordering;

use headwater_pgoutput::{Column, Tuple};

use crate::description::{ColumnDescription, PgType, TableDescription};
use crate::error::{EncodeError, SchemaError};
use crate::schema::full_name;
use value::Operand;

/// A filter as it was configured; without one every row passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter(Option<Expression>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Not(Box<Expression>),
    Compare { column: String, operator: Operator, literal: Literal },
    In { column: String, literals: Vec<Literal> },
    IsNull { column: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Literal {
    Text(String),
    /// `-?digits(.digits)?`
    Number(String),
    Bool(bool),
}

impl RowFilter {
    /// Reads an expression; an empty one lets every row pass. The error names the position, counted in characters
    /// from 1.
    ///
    /// # Errors
    /// What isn't of the grammar.
    pub fn parse(text: &str) -> Result<RowFilter, String> {
        if text.trim().is_empty() {
            return Ok(RowFilter(None));
        }
        parse::expression(text).map(|expression| RowFilter(Some(expression)))
    }

    /// Compiles it for a table; none if every row passes.
    ///
    /// # Errors
    /// [`SchemaError`] if it names a column that isn't there, compares what can't be compared, or if old rows don't
    /// carry its columns.
    pub fn compile(&self, table: &TableDescription) -> Result<Option<FilterPlan>, SchemaError> {
        let Some(expression) = &self.0 else { return Ok(None) };
        let failed = |what| SchemaError::Filter { table: full_name(table), what };
        let mut columns = Vec::new();
        let node = compile(expression, table, &mut columns).map_err(failed)?;
        let sends_old_rows =
            table.has_full_identity() || table.columns.iter().any(|column| column.in_identity);
        let absent = columns.iter().find(|used| !table.has_full_identity() && !used.in_identity);
        if let Some(absent) = absent.filter(|_| sends_old_rows) {
            return Err(failed(format!(
                "old rows don't carry \"{0}\", so a row that leaves the filter could not be told; \
                 ALTER TABLE {1} REPLICA IDENTITY FULL, or use an index with \"{0}\" as its replica identity",
                absent.name,
                full_name(table)
            )));
        }
        Ok(Some(FilterPlan { node, columns }))
    }
}

/// A filter of one version of one table.
#[derive(Debug, Clone)]
pub struct FilterPlan {
    node: Node,
    columns: Vec<Used>,
}

/// A column that the filter looks at.
#[derive(Debug, Clone)]
struct Used {
    /// Its place in the tuple.
    index: usize,
    name: String,
    type_name: String,
    in_identity: bool,
}

#[derive(Debug, Clone)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Compare { column: usize, operator: Operator, operand: Operand },
    In { column: usize, operands: Vec<Operand> },
    IsNull { column: usize },
}

impl FilterPlan {
    /// Whether a row passes: the filter is true for it, neither false nor unknown. An unchanged TOAST value is taken
    /// from the old row.
    ///
    /// # Errors
    /// [`EncodeError`] if the row doesn't say: an unchanged TOAST value without the old one.
    pub fn passes(&self, row: &Tuple<'_>, old: Option<&Tuple<'_>>) -> Result<bool, EncodeError> {
        self.node.is_true(&Row { columns: &self.columns, row, old }).map(|known| known == Some(true))
    }
}

struct Row<'a> {
    columns: &'a [Used],
    row: &'a Tuple<'a>,
    old: Option<&'a Tuple<'a>>,
}

impl<'a> Row<'a> {
    /// The text of a column; none for NULL.
    fn text(&self, column: usize) -> Result<Option<&'a [u8]>, EncodeError> {
        let used = &self.columns[column];
        let unchanged = || EncodeError::UnchangedWithoutOldValue {
            column: used.name.clone(),
            type_name: used.type_name.clone(),
        };
        let value = match self.row.column(used.index) {
            Some(Column::Unchanged) => self.old.and_then(|old| old.column(used.index)),
            value => value,
        };
        match value {
            Some(Column::Text(text)) => Ok(Some(text)),
            Some(Column::Null) => Ok(None),
            _ => Err(unchanged()),
        }
    }
}

impl Node {
    /// None is SQL's unknown.
    fn is_true(&self, row: &Row<'_>) -> Result<Option<bool>, EncodeError> {
        Ok(match self {
            Node::Not(node) => node.is_true(row)?.map(|known| !known),
            Node::And(nodes) => all(nodes, row, false)?,
            Node::Or(nodes) => all(nodes, row, true)?,
            Node::IsNull { column } => Some(row.text(*column)?.is_none()),
            Node::Compare { column, operator, operand } => {
                row.text(*column)?.and_then(|text| operand.compare(text)).map(|order| operator.holds(order))
            }
            Node::In { column, operands } => row
                .text(*column)?
                .map(|text| operands.iter().any(|operand| operand.compare(text) == Some(Ordering::Equal))),
        })
    }
}

/// The first node that is `decisive` decides; else an unknown one leaves it open.
fn all(nodes: &[Node], row: &Row<'_>, decisive: bool) -> Result<Option<bool>, EncodeError> {
    let mut result = Some(!decisive);
    for node in nodes {
        match node.is_true(row)? {
            Some(known) if known == decisive => return Ok(Some(decisive)),
            None => result = None,
            Some(_) => {}
        }
    }
    Ok(result)
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Operator::Equal => order.is_eq(),
            Operator::NotEqual => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
        }
    }

    fn needs_order(self) -> bool {
        !matches!(self, Operator::Equal | Operator::NotEqual)
    }
}

fn compile(
    expression: &Expression,
    table: &TableDescription,
    columns: &mut Vec<Used>,
) -> Result<Node, String> {
    let mut many = |expressions: &[Expression]| {
        expressions.iter().map(|each| compile(each, table, columns)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match expression {
        Expression::And(expressions) => Node::And(many(expressions)?),
        Expression::Or(expressions) => Node::Or(many(expressions)?),
        Expression::Not(inner) => Node::Not(Box::new(compile(inner, table, columns)?)),
        Expression::IsNull { column } => Node::IsNull { column: find(column, table, columns)?.0 },
        Expression::Compare { column, operator, literal } => {
            let (column, described) = find(column, table, columns)?;
            let operand = operand(described, literal, operator.needs_order())?;
            Node::Compare { column, operator: *operator, operand }
        }
        Expression::In { column, literals } => {
            let (column, described) = find(column, table, columns)?;
            let operands = literals.iter().map(|literal| operand(described, literal, false));
            Node::In { column, operands: operands.collect::<Result<_, _>>()? }
        }
    })
}

/// The column's place among those that are used, and what it is.
fn find<'a>(
    name: &str,
    table: &'a TableDescription,
    columns: &mut Vec<Used>,
) -> Result<(usize, &'a ColumnDescription), String> {
    let Some(index) = table.columns.iter().position(|column| column.name == *name) else {
        return Err(format!("there is no column \"{name}\" in the publication"));
    };
    let described = &table.columns[index];
    let known = columns.iter().position(|used| used.index == index);
    let at = known.unwrap_or_else(|| {
        columns.push(Used {
            index,
            name: name.to_owned(),
            type_name: described.type_name.clone(),
            in_identity: described.in_identity,
        });
        columns.len() - 1
    });
    Ok((at, described))
}

/// Types of text whose equality is that of their bytes. (citext ignores case, char(n) trailing blanks, and of a domain
/// only its name is known here.)
const PLAIN_TEXTS: &[&str] = &["text", "varchar", "character varying", "name"];

fn operand(column: &ColumnDescription, literal: &Literal, needs_order: bool) -> Result<Operand, String> {
    let (name, type_name) = (&column.name, &column.type_name);
    let expects = |what: &str| Err(format!("\"{name}\" is of type {type_name} and is compared with {what}"));
    match (&column.pg_type, literal) {
        (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid, Literal::Number(number))
        | (PgType::Numeric { .. } | PgType::NumericUnconstrained, Literal::Number(number)) => {
            Ok(Operand::Decimal(number.clone()))
        }
        (PgType::Float4, Literal::Number(number)) => Ok(Operand::Float4(value::double(number))),
        (PgType::Float8, Literal::Number(number)) => Ok(Operand::Float8(value::double(number))),
        (PgType::Bool, Literal::Bool(value)) if !needs_order => {
            Ok(Operand::Bytes(if *value { b"t".to_vec() } else { b"f".to_vec() }))
        }
        (PgType::Uuid, Literal::Text(text)) if !needs_order => {
            Ok(Operand::Bytes(text.to_lowercase().into_bytes()))
        }
        (PgType::Enum { .. }, Literal::Text(text)) if !needs_order => {
            Ok(Operand::Bytes(text.clone().into_bytes()))
        }
        (PgType::Text, Literal::Text(text)) if !needs_order && PLAIN_TEXTS.contains(&type_name.as_str()) => {
            Ok(Operand::Bytes(text.clone().into_bytes()))
        }
        (PgType::Text, Literal::Text(_)) if !PLAIN_TEXTS.contains(&type_name.as_str()) => Err(format!(
            "\"{name}\" is of type {type_name}, whose equality is not that of its text; it can only be tested with IS NULL"
        )),
        (PgType::Text | PgType::Uuid | PgType::Enum { .. }, Literal::Text(_)) => Err(format!(
            "the order of \"{name}\" ({type_name}) depends on its collation; it is compared with =, <> or IN"
        )),
        (PgType::Bool, Literal::Bool(_)) => expects("= or <>"),
        (PgType::Bool, _) => expects("true or false"),
        (PgType::Text | PgType::Uuid | PgType::Enum { .. }, _) => expects("text in single quotes"),
        (
            PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Oid
            | PgType::Float4
            | PgType::Float8
            | PgType::Numeric { .. }
            | PgType::NumericUnconstrained,
            _,
        ) => expects("a number"),
        _ => Err(format!("\"{name}\" is of type {type_name}, which can only be tested with IS NULL")),
    }
}

#[cfg(test)]
mod tests;
