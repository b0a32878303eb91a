//! What a registry says of one subject: its latest version, whether it has a schema, and whether it would take one.

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Registered, Registry, RegistryError};
use crate::plan::{SchemaId, Subject};
use crate::same_bytes::first_difference;

/// One version of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubjectVersion {
    /// The id that stands before every value.
    pub id: u32,
    /// Counted from 1 in its subject.
    pub version: u32,
    /// The schema as JSON.
    pub schema: String,
}

/// What the registry would do with a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Compatible,
    /// Refuse it, with its own words, which may be none.
    Incompatible(Vec<String>),
}

#[derive(Deserialize)]
struct Compatibility {
    is_compatible: bool,
    /// Some registries answer null.
    #[serde(default)]
    messages: Option<Vec<String>>,
}

impl Registry {
    /// The latest version of a subject; `None` if there is no such subject.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn latest(&self, subject: &Subject) -> Result<Option<SubjectVersion>, RegistryError> {
        let path = ["subjects", &subject.0, "versions", "latest"];
        absent_is_none(self.call(Method::GET, &path, None).await?)
    }

    /// One version of a subject; `None` if there is no such version.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn version(
        &self,
        subject: &Subject,
        version: u32,
    ) -> Result<Option<SubjectVersion>, RegistryError> {
        let path = ["subjects", &subject.0, "versions", &version.to_string()];
        absent_is_none(self.call(Method::GET, &path, None).await?)
    }

    /// The id of this schema if the subject has it in some version.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn find(
        &self,
        subject: &Subject,
        schema_json: &str,
    ) -> Result<Option<SchemaId>, RegistryError> {
        let body = json!({ "schema": schema_json });
        let answer = self.call(Method::POST, &["subjects", &subject.0], Some(&body)).await?;
        Ok(absent_is_none::<Registered>(answer)?.map(|found| SchemaId(found.id)))
    }

    /// What the subject's compatibility level would say of this schema. Registers nothing.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn verdict(&self, subject: &Subject, schema_json: &str) -> Result<Verdict, RegistryError> {
        let body = json!({ "schema": schema_json });
        let query = Some(("verbose", "true"));
        // Against as many versions as the level asks for; older registries only know the latest.
        let all = ["compatibility", "subjects", &subject.0, "versions"];
        let mut answer = self.call_with(Method::POST, &all, query, Some(&body)).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            let latest = ["compatibility", "subjects", &subject.0, "versions", "latest"];
            answer = self.call_with(Method::POST, &latest, query, Some(&body)).await?;
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Verdict::Compatible);
        }
        let Compatibility { is_compatible, messages } = answer.parse()?;
        Ok(if is_compatible {
            Verdict::Compatible
        } else {
            Verdict::Incompatible(messages.unwrap_or_default())
        })
    }

    /// Lets every later schema of this subject pass.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn allow_any(&self, subject: &Subject) -> Result<(), RegistryError> {
        let body = json!({ "compatibility": "NONE" });
        let answer = self.call(Method::PUT, &["config", &subject.0], Some(&body)).await?;
        answer.parse::<serde_json::Value>().map(drop)
    }

    /// The id to write this schema's bytes under: registered where that is allowed, else one that is there already.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn schema_id(&self, subject: &Subject, schema_json: &str) -> Result<SchemaId, RegistryError> {
        if self.auto_register {
            return self.register(subject, schema_json).await;
        }
        let key = (subject.clone(), schema_json.to_owned());
        if let Some(id) = self.ids().get(&key) {
            return Ok(*id);
        }
        let id = self.existing(subject, schema_json).await?;
        self.ids().insert(key, id);
        Ok(id)
    }

    /// A version that has this schema, or the latest one if bytes mean the same under it. One that is merely
    /// compatible won't do: readers take the bytes apart by the schema whose id stands before them.
    async fn existing(&self, subject: &Subject, schema_json: &str) -> Result<SchemaId, RegistryError> {
        if let Some(id) = self.find(subject, schema_json).await? {
            return Ok(id);
        }
        let reason = match self.latest(subject).await? {
            None => "there is no such subject".to_owned(),
            Some(latest) => match first_difference(schema_json, &latest.schema) {
                None => return Ok(SchemaId(latest.id)),
                Some(difference) => {
                    let would = match self.verdict(subject, schema_json).await? {
                        Verdict::Compatible => "the registry would take the table's as compatible".to_owned(),
                        Verdict::Incompatible(why) => {
                            format!(
                                "the registry would refuse the table's as incompatible: {}",
                                why.join("; ")
                            )
                        }
                    };
                    format!("its latest version {} is another schema ({difference}); {would}", latest.version)
                }
            },
        };
        Err(RegistryError::NotRegistered { subject: subject.clone(), reason })
    }
}

fn absent_is_none<T: for<'de> Deserialize<'de>>(answer: Answer) -> Result<Option<T>, RegistryError> {
    if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.parse().map(Some) }
}
