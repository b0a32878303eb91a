//! The kinds of value a setting can hold, and how each is read from what was written.
//!
//! A message says what was expected and shows it; it never quotes what was written where that may be a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use headwater_apply::{FeedbackFormat, OnPoison, StartAt};
use headwater_avro::from_json::{EmptyArrays, NullFields};
use headwater_avro::{
    AbsentBefore, ArrayHandling, BinaryHandling, ColumnList, ColumnMasks, ColumnName, ColumnNames,
    ColumnPatterns, DecimalHandling, Envelope, FlatDeletes, HstoreHandling, IntervalHandling, KeylessKey,
    Mask, MetadataField, MetadataFields, OnError, OnIncompatible, RecordEncoding, RowFilter, SchemaNames,
    SharedTopic, SubjectStrategy, TimePrecision, TopicTemplate, TruncateHandling, TypeStyle, UnchangedToast,
    UnknownTypes,
};
use headwater_outbox::{MailTls, ProcessedWhen};
use headwater_pg::Secret;
use headwater_pipeline::settings::{OnNewTable, OnUpdate, Oversized, SnapshotMode};

use super::layers::{Entry, Node};
use super::problem::Origin;
use super::quantity::{self, Size};

/// A kind of value.
pub trait Value: Sized {
    /// What it holds, for the reference.
    const KIND: &'static str;
    /// Reads it, or says what to write instead.
    fn read(node: Node) -> Result<Self, String>;
}

/// One name or a list of names; in an environment variable, with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

/// Free keys with scalar values and the place of each; nested tables are joined with dots.
///
/// Not printable: some of Kafka's properties are secrets.
#[derive(Clone, Default)]
pub struct Properties(pub BTreeMap<String, (String, Origin)>);

impl Value for String {
    const KIND: &'static str = "text";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Text(text) | Node::Typed(text) if text.is_empty() => Err("is empty".to_owned()),
            Node::Text(text) | Node::Typed(text) => Ok(text),
            other => Err(format!("is {}; write text in quotes", other.kind())),
        }
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";
    fn read(node: Node) -> Result<Self, String> {
        String::read(node).map(PathBuf::from)
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret";
    fn read(node: Node) -> Result<Self, String> {
        String::read(node).map(Secret::new)
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Bool(value) => Ok(value),
            Node::Typed(text) => text.parse().map_err(|_| format!("\"{text}\" is neither true nor false")),
            other => Err(format!("is {}; write true or false, without quotes", other.kind())),
        }
    }
}

impl Value for i32 {
    const KIND: &'static str = "number";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Integer(text) | Node::Typed(text) => text
                .replace('_', "")
                .parse()
                .map_err(|_| format!("\"{text}\" is not a whole number in range")),
            other => Err(format!("is {}; write a whole number, without quotes", other.kind())),
        }
    }
}

impl Value for u8 {
    const KIND: &'static str = "number";
    fn read(node: Node) -> Result<Self, String> {
        let number = i32::read(node)?;
        u8::try_from(number).map_err(|_| format!("\"{number}\" is not between 0 and 255"))
    }
}

impl Value for Duration {
    const KIND: &'static str = "duration";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Text(text) | Node::Typed(text) => quantity::parse_duration(&text),
            Node::Integer(number) => Err(quantity::duration_without_unit(&number)),
            other => Err(format!("is {}; write a duration such as \"5s\"", other.kind())),
        }
    }
}

impl Value for Size {
    const KIND: &'static str = "size";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Text(text) | Node::Typed(text) => quantity::parse_size(&text),
            Node::Integer(number) => Err(quantity::size_without_unit(&number)),
            other => Err(format!("is {}; write a size such as \"64MiB\"", other.kind())),
        }
    }
}

impl Value for Names {
    const KIND: &'static str = "name or list of names";
    fn read(node: Node) -> Result<Self, String> {
        let names = match node {
            Node::Text(text) => vec![text],
            Node::Typed(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Node::Array(entries) => {
                entries.into_iter().map(|entry| String::read(entry.node)).collect::<Result<_, _>>()?
            }
            other => return Err(format!("is {}; write one name or a list of names", other.kind())),
        };
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("holds an empty name".to_owned());
        }
        Ok(Names(names))
    }
}

impl Value for ColumnList {
    const KIND: &'static str = "name or list of names";
    fn read(node: Node) -> Result<Self, String> {
        read_names(node).map(ColumnList)
    }
}

/// Names or none: an empty text is an empty list.
fn read_names(node: Node) -> Result<Vec<String>, String> {
    match node {
        Node::Text(text) | Node::Typed(text) if text.is_empty() => Ok(Vec::new()),
        Node::Array(entries) if entries.is_empty() => Ok(Vec::new()),
        node => Names::read(node).map(|names| names.0),
    }
}

/// Text by name; in an environment variable `name=text` with commas between them.
fn read_pairs(node: Node) -> Result<Vec<(String, String)>, String> {
    match node {
        Node::Table(table) => {
            let pair = |(name, entry): (String, Entry)| match String::read(entry.node) {
                Ok(text) => Ok((name, text)),
                Err(message) => Err(format!("{name} {message}")),
            };
            table.into_iter().map(pair).collect()
        }
        Node::Typed(text) if text.is_empty() => Ok(Vec::new()),
        Node::Typed(text) => {
            let pair = |pair: &str| match pair.split_once('=') {
                Some((name, text)) => Ok((name.trim().to_owned(), text.trim().to_owned())),
                None => Err(format!("\"{pair}\" is not name=text")),
            };
            text.split(',').map(pair).collect()
        }
        other => Err(format!("is {}; write a table, {{ column = \"text\" }}", other.kind())),
    }
}

impl Value for ColumnPatterns {
    const KIND: &'static str = "name or list of names";
    fn read(node: Node) -> Result<Self, String> {
        read_names(node).map(ColumnPatterns)
    }
}

impl Value for ColumnNames {
    const KIND: &'static str = "table";
    fn read(node: Node) -> Result<Self, String> {
        Ok(ColumnNames(read_pairs(node)?.into_iter().collect()))
    }
}

impl Value for ColumnMasks {
    const KIND: &'static str = "table";
    fn read(node: Node) -> Result<Self, String> {
        let mask = |(pattern, text): (String, String)| match Mask::parse(&text) {
            Ok(mask) => Ok((pattern, mask)),
            Err(message) => Err(format!("{pattern}: {message}")),
        };
        let masks = read_pairs(node)?.into_iter().map(mask).collect::<Result<Vec<_>, _>>()?;
        Ok(ColumnMasks::new(masks))
    }
}

impl Value for MetadataFields {
    const KIND: &'static str = "name or list of names";
    fn read(node: Node) -> Result<Self, String> {
        let fields = read_names(node)?;
        fields.iter().map(|field| MetadataField::parse(field)).collect::<Result<_, _>>().map(MetadataFields)
    }
}

impl Value for TopicTemplate {
    const KIND: &'static str = "text";
    fn read(node: Node) -> Result<Self, String> {
        TopicTemplate::parse(&String::read(node)?)
    }
}

impl Value for ColumnName {
    const KIND: &'static str = "name";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Text(text) | Node::Typed(text) if text.is_empty() => Ok(ColumnName(None)),
            node => String::read(node).map(|name| ColumnName(Some(name))),
        }
    }
}

impl Value for RowFilter {
    const KIND: &'static str = "text";
    fn read(node: Node) -> Result<Self, String> {
        match node {
            Node::Text(text) | Node::Typed(text) => RowFilter::parse(&text),
            other => Err(format!("is {}; write an expression in quotes", other.kind())),
        }
    }
}

impl Value for Properties {
    const KIND: &'static str = "table";
    fn read(node: Node) -> Result<Self, String> {
        let Node::Table(table) = node else { return Err(format!("is {}; write a table", node.kind())) };
        let mut flat = BTreeMap::new();
        for (name, entry) in table {
            flatten(entry, &name, &mut flat)?;
        }
        Ok(Properties(flat))
    }
}

fn flatten(entry: Entry, prefix: &str, flat: &mut BTreeMap<String, (String, Origin)>) -> Result<(), String> {
    let text = match entry.node {
        Node::Table(table) => {
            for (name, inner) in table {
                flatten(inner, &format!("{prefix}.{name}"), flat)?;
            }
            return Ok(());
        }
        Node::Text(text) | Node::Typed(text) => text,
        Node::Integer(number) | Node::Float(number) => number.replace('_', ""),
        Node::Bool(value) => value.to_string(),
        other @ (Node::Array(_) | Node::Datetime) => {
            return Err(format!("{prefix} is {}; write text, a number, true or false", other.kind()));
        }
    };
    match flat.insert(prefix.to_owned(), (text, entry.origin)) {
        None => Ok(()),
        Some(_) => Err(format!("{prefix} is written twice, once nested and once with dots")),
    }
}

/// Declares a choice among words, spelt as in the file.
macro_rules! words {
    ($( $(#[$doc:meta])* $Type:ident { $( $(#[$variant_doc:meta])* $Variant:ident = $word:literal ),* $(,)? } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Type { $( $(#[$variant_doc])* $Variant ),* }

        impl Value for $Type {
            const KIND: &'static str = "word";
            fn read(node: Node) -> Result<Self, String> {
                let known: &[&str] = &[$($word),*];
                match String::read(node)?.as_str() {
                    $( $word => Ok($Type::$Variant), )*
                    other => Err(format!("\"{other}\" is not one of {}", known.join(", "))),
                }
            }
        }
    )* };
}

words! {
    /// libpq's `sslmode`.
    SslMode {
        /// No TLS.
        Disable = "disable",
        /// TLS if the server has it, unverified.
        Prefer = "prefer",
        /// TLS, unverified.
        Require = "require",
        /// TLS, the chain verified.
        VerifyCa = "verify-ca",
        /// TLS, chain and host name verified.
        VerifyFull = "verify-full",
    }
    /// libpq's `channel_binding`.
    ChannelBinding {
        /// Never.
        Disable = "disable",
        /// If the server offers it.
        Prefer = "prefer",
        /// Or no connection.
        Require = "require",
    }
    /// Where records go.
    SinkType {
        /// Topics of Kafka.
        Kafka = "kafka",
        /// Lines of JSON on standard output.
        Stdout = "stdout",
        /// Lines of JSON in a file.
        File = "file",
        /// Nowhere.
        Discard = "discard",
    }
    /// What becomes of an outbox row's payload.
    PayloadFormat {
        /// An Avro string or bytes, registered.
        Avro = "avro",
        /// The column's text as it is.
        Raw = "raw",
        /// JSON in a schema of the registry's.
        AvroFromJson = "avro_from_json",
        /// JSON in a schema inferred from it.
        AvroInferred = "avro_inferred",
    }
    /// What it means that a column is not there.
    MissingColumns {
        /// That somebody is wrong.
        Halt = "halt",
        /// That there is nothing to send.
        Ignore = "ignore",
    }
}

/// Reads choices that a library declares with their words.
macro_rules! words_of {
    ($( $Type:ident ),* $(,)?) => { $(
        impl Value for $Type {
            const KIND: &'static str = "word";
            fn read(node: Node) -> Result<Self, String> {
                let text = String::read(node)?;
                $Type::WORDS.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
                    let known: Vec<_> = $Type::WORDS.iter().map(|(word, _)| *word).collect();
                    format!("\"{text}\" is not one of {}", known.join(", "))
                })
            }
        }
    )* };
}

words_of! {
    EmptyArrays,
    MailTls,
    NullFields,
    OnUpdate,
    ProcessedWhen,
    AbsentBefore,
    KeylessKey,
    TruncateHandling,
    ArrayHandling,
    BinaryHandling,
    DecimalHandling,
    Envelope,
    FeedbackFormat,
    FlatDeletes,
    HstoreHandling,
    IntervalHandling,
    OnError,
    OnIncompatible,
    OnPoison,
    Oversized,
    StartAt,
    SubjectStrategy,
    RecordEncoding,
    SchemaNames,
    SharedTopic,
    SnapshotMode,
    OnNewTable,
    TimePrecision,
    TypeStyle,
    UnchangedToast,
    UnknownTypes,
}
