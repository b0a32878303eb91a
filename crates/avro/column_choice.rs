//! Which columns a record has, under which names, and which of them hide their values: the choices as configured.
//!
//! Everything here is looked at once per version of a table; rows see what plans were compiled from it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::glob::glob_matches;

/// Patterns over column names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnPatterns(pub Vec<String>);

impl ColumnPatterns {
    /// Whether one of them matches the name.
    pub fn cover(&self, column: &str) -> bool {
        self.0.iter().any(|pattern| glob_matches(pattern, column))
    }
}

/// New names of columns, by their names in Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames(pub BTreeMap<String, String>);

impl ColumnNames {
    /// The name that a column has in records.
    pub fn of<'a>(&'a self, column: &'a str) -> &'a str {
        self.0.get(column).map_or(column, String::as_str)
    }
}

/// What stands in the place of a column's values. NULL stays NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// The value itself: takes back what a wider pattern says.
    None,
    /// Always null.
    Null,
    /// Always this text.
    Fixed(String),
    /// HMAC-SHA-256 of Postgres' text under the salt, in lower-case hexadecimal.
    Hash,
    /// The first so many characters of a text.
    Truncate(usize),
}

impl Mask {
    /// Reads `null`, `hash`, `truncate:10`, `fixed:***` or `none`; the error says what can be written.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Mask, String> {
        let (kind, argument) = match text.split_once(':') {
            Some((kind, argument)) => (kind, Some(argument)),
            None => (text, None),
        };
        match (kind, argument) {
            ("none", None) => Ok(Mask::None),
            ("null", None) => Ok(Mask::Null),
            ("hash", None) => Ok(Mask::Hash),
            ("fixed", Some(text)) => Ok(Mask::Fixed(text.to_owned())),
            ("truncate", Some(length)) => match length.parse() {
                Ok(length) => Ok(Mask::Truncate(length)),
                Err(_) => {
                    Err(format!("\"{length}\" is no number of characters; write for example truncate:10"))
                }
            },
            _ => Err(format!(
                "\"{kind}\" is no mask; there are hash, truncate:<characters>, fixed:<text>, null and none"
            )),
        }
    }
}

/// Masks by column pattern. Of several that match a column, the one for its table wins over the one for all tables,
/// and among those the longest pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMasks {
    /// From the weakest to the strongest.
    ranked: Vec<(String, Mask)>,
}

impl ColumnMasks {
    /// The masks of one place of the configuration.
    pub fn new(masks: impl IntoIterator<Item = (String, Mask)>) -> ColumnMasks {
        let mut ranked: Vec<_> = masks.into_iter().collect();
        ranked.sort_by_key(|(pattern, _)| (!pattern.contains(['*', '?']), pattern.len()));
        ColumnMasks { ranked }
    }

    /// The masks of a table: those for all tables hold on for what its own ones don't name. (Anything else would
    /// show a column in clear because another one of its table got a mask.)
    pub(crate) fn under(self, own: ColumnMasks) -> ColumnMasks {
        let mut ranked = self.ranked;
        ranked.extend(own.ranked);
        ColumnMasks { ranked }
    }

    /// What hides a column's values, if anything does.
    pub fn of(&self, column: &str) -> Option<&Mask> {
        let (_, mask) = self.ranked.iter().rev().find(|(pattern, _)| glob_matches(pattern, column))?;
        (*mask != Mask::None).then_some(mask)
    }

    /// The patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.ranked.iter().map(|(pattern, _)| pattern.as_str())
    }

    /// Whether any needs the salt.
    pub fn hash_any(&self) -> bool {
        self.ranked.iter().any(|(_, mask)| *mask == Mask::Hash)
    }
}

/// The key of hashes. It can't be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MaskSalt(Arc<[u8]>);

impl MaskSalt {
    /// From its bytes.
    pub fn new(bytes: &[u8]) -> MaskSalt {
        MaskSalt(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MaskSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskSalt(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(masks: &[(&str, &str)]) -> ColumnMasks {
        let parse = |(pattern, mask): &(&str, &str)| ((*pattern).to_owned(), Mask::parse(mask).unwrap());
        ColumnMasks::new(masks.iter().map(parse))
    }

    #[test]
    fn the_nearest_mask_wins() {
        let all = masks(&[("*", "null"), ("*_email", "hash"), ("note", "truncate:3"), ("free", "fixed:a:b")]);
        let both = all.clone().under(masks(&[("work_*", "none"), ("note", "null")]));
        for (column, of_all, of_table) in [
            ("id", Some(Mask::Null), Some(Mask::Null)),
            ("work_email", Some(Mask::Hash), None),
            ("home_email", Some(Mask::Hash), Some(Mask::Hash)),
            ("note", Some(Mask::Truncate(3)), Some(Mask::Null)),
            ("free", Some(Mask::Fixed("a:b".to_owned())), Some(Mask::Fixed("a:b".to_owned()))),
        ] {
            assert_eq!(all.of(column).cloned(), of_all, "{column}");
            assert_eq!(both.of(column).cloned(), of_table, "{column}");
        }
        assert!(all.hash_any());
    }

    #[test]
    fn masks_are_read_or_explained() {
        for (text, complaint) in
            [("md5", "hash"), ("truncate", "truncate:<"), ("truncate:x", "truncate:10"), ("fixed", "fixed:<")]
        {
            let error = Mask::parse(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
        assert_eq!(Mask::parse("fixed:").unwrap(), Mask::Fixed(String::new()));
    }

    #[test]
    fn a_salt_is_never_printed() {
        assert!(!format!("{:?}", MaskSalt::new(b"pepper")).contains("pepper"));
    }
}
