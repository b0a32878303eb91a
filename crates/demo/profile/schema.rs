//! What an event has to look like: the newest schema of its subject in the registry, which its producer registered.

use anyhow::{Context, Result};
use apache_avro::Schema;
use apache_avro::types::Value;
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// A registered schema.
pub struct Registered {
    pub subject: String,
    pub version: i64,
    schema: Schema,
}

/// Registers a schema under a subject, as the producer's deployment does.
pub async fn register(registry: &str, subject: &str, schema: &str) -> Result<()> {
    let url = format!("{registry}/subjects/{subject}/versions");
    let answer = client()?.post(url).json(&json!({ "schema": schema })).send().await?;
    answer.error_for_status().context("the registry does not take the schema")?;
    Ok(())
}

/// The newest one.
pub async fn newest(registry: &str, subject: &str) -> Result<Registered> {
    #[derive(Deserialize)]
    struct Answer {
        version: i64,
        schema: String,
    }
    let url = format!("{registry}/subjects/{subject}/versions/latest");
    let answer = client()?.get(url).send().await?.error_for_status().context("no schema in the registry")?;
    let answer: Answer = answer.json().await?;
    let schema = Schema::parse_str(&answer.schema)?;
    Ok(Registered { subject: subject.to_owned(), version: answer.version, schema })
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

impl Registered {
    /// The fields that are missing or of another type; never what is in them.
    pub fn misfits(&self, payload: &Json) -> Vec<String> {
        let Schema::Record(record) = &self.schema else {
            return vec!["the schema is no record".to_owned()];
        };
        let Json::Object(members) = payload else { return vec!["the payload is no object".to_owned()] };
        let wrong = record.fields.iter().filter_map(|field| match members.get(&field.name) {
            None if field.default.is_none() => Some(format!("{} is missing", field.name)),
            None => None,
            Some(member) => {
                // a number that no long can be becomes another one on its way into an Avro value
                let fits = !member.is_u64() || member.is_i64();
                let fits =
                    fits && Value::try_from(member.clone()).is_ok_and(|it| it.resolve(&field.schema).is_ok());
                (!fits).then(|| format!("{} has another type", field.name))
            }
        });
        wrong.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &str, expected: &[&str]) {
        let schema = Schema::parse_str(include_str!("profile.avsc")).expect("a schema");
        let payload = serde_json::from_str(payload).expect("JSON");
        assert_eq!(
            Registered { subject: "s".to_owned(), version: 1, schema }.misfits(&payload),
            expected,
            "{payload}"
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check(r#"{"id": "u", "email": "a@b", "name": "A", "version": 1}"#, &[]);
        check(r#"{"id": "u", "email": "a@b", "name": "A", "version": 1, "more": true}"#, &[]);
        check(r#"{"id": "u", "name": "A", "version": 1}"#, &["email is missing"]);
        check(
            r#"{"id": 7, "email": "a@b", "name": "A", "version": "1"}"#,
            &["id has another type", "version has another type"],
        );
        check(
            r#"{"id": "u", "email": "a@b", "name": "A", "version": 9223372036854775808}"#,
            &["version has another type"],
        );
        check(r#"{"id": "u", "email": "a@b", "name": "A", "version": 1.5}"#, &["version has another type"]);
        check("[1]", &["the payload is no object"]);
    }
}
