//! JSON one level at a time, with numbers as they are written: a decimal is not a double.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One level of a document.
#[derive(Debug)]
pub(super) enum Json<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    Text(String),
    Array(Vec<&'a RawValue>),
    /// In the order of the document.
    Object(Vec<(String, &'a RawValue)>),
}

impl<'a> Json<'a> {
    /// Opens a value; what is inside of it is looked at later.
    pub(super) fn open(raw: &'a RawValue) -> Result<Json<'a>, &'static str> {
        let text = raw.get().trim_ascii();
        let opened = match text.bytes().next() {
            Some(b'n') => Ok(Json::Null),
            Some(b't') => Ok(Json::Boolean(true)),
            Some(b'f') => Ok(Json::Boolean(false)),
            Some(b'"') => serde_json::from_str(text).map(Json::Text),
            Some(b'[') => serde_json::from_str(text).map(Json::Array),
            Some(b'{') => serde_json::from_str(text).map(|Members(members)| Json::Object(members)),
            _ => Ok(Json::Number(text)),
        };
        let json = opened.map_err(|_| "is no JSON")?;
        if let Json::Object(members) = &json {
            let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err("has a member twice");
            }
        }
        Ok(json)
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_level_is_opened() {
        let object = raw(r#"{"b": 1.10, "a": [null, {"x": 1}]}"#);
        let Json::Object(members) = Json::open(&object).unwrap() else { panic!("no object") };
        assert_eq!(members[0].0, "b");
        assert!(matches!(Json::open(members[0].1).unwrap(), Json::Number("1.10")));
        let Json::Array(items) = Json::open(members[1].1).unwrap() else { panic!("no array") };
        assert!(matches!(Json::open(items[0]).unwrap(), Json::Null));
        assert!(matches!(Json::open(&raw("true")).unwrap(), Json::Boolean(true)));
        assert!(matches!(Json::open(&raw(r#""\u00fc""#)).unwrap(), Json::Text(text) if text == "ü"));
        assert!(Json::open(&raw(r#"{"a": 1, "a": 2}"#)).is_err());
    }
}
