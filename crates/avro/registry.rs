//! A thin client of a Confluent-compatible Schema Registry: register, look up, ask for the compatibility level.
//!
//! Every answer is sorted into one of three: come again later ([`RegistryError::Unavailable`]), the schema doesn't
//! fit its subject ([`RegistryError::Incompatible`]), the request is wrong for good ([`RegistryError::Rejected`]).
//! Waiting and halting are the caller's business. Ids are remembered, refusals and outages never are.
//! Credentials are in no error and no log.

mod subjects;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

pub use self::subjects::{SubjectVersion, Verdict};
use crate::plan::{SchemaId, Subject};
use crate::subject::{RecordPart, SubjectStrategy};

/// Where the registry is and how to speak to it.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// `http://` or `https://`; with several, the next one is tried when one can't answer. A user and password in
    /// an address count as `username` and `password`.
    pub urls: Vec<String>,
    /// User of basic authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Password>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a client certificate (with its chain) and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// For one request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Whether a schema that the registry does not have is registered; if not, it has to be there.
    pub auto_register: bool,
    /// Which subjects the schemas of keys have.
    pub key_subject: SubjectStrategy,
    /// Which subjects the schemas of values have.
    pub value_subject: SubjectStrategy,
}

impl RegistrySettings {
    /// The subject of a schema.
    pub fn subject(&self, topic: &str, part: RecordPart, schema_json: &str) -> Subject {
        let strategy = match part {
            RecordPart::Key => self.key_subject,
            RecordPart::Value => self.value_subject,
        };
        strategy.subject(topic, part, schema_json)
    }
}

/// A password; prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Hides the text.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    /// Shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Settings that no registry can be reached with.
#[derive(Debug, Error)]
pub enum RegistrySettingsError {
    /// There is no address.
    #[error("no schema registry URL is given")]
    NoUrl,
    /// An address isn't one. It is named by its place, because it can hold a password.
    #[error("schema registry URL number {position} is not an http or https address")]
    InvalidUrl {
        /// Counted from 1.
        position: usize,
    },
    /// A certificate or key can't be used.
    #[error("{what} {}: {reason}", path.display())]
    Certificate {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system's authorities can't be read, or TLS can't be set up with them.
    #[error("TLS for the schema registry: {0}")]
    Tls(String),
}

/// Why there is no answer to work with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    /// Connection, timeout, 408, 429 or 5xx from all addresses: worth repeating.
    #[error("schema registry unavailable: {url}: {reason}")]
    Unavailable {
        /// The address tried last.
        url: String,
        /// What it answered.
        reason: String,
    },
    /// 409: the subject's compatibility level refuses the schema.
    #[error("schema registry refuses the schema of {subject} as incompatible: {reason}")]
    Incompatible {
        /// The subject.
        subject: Subject,
        /// The registry's own words.
        reason: String,
    },
    /// Registering is forbidden, and the subject has no version under which the bytes would mean the same.
    #[error(
        "schema_registry.auto_register is false, and the registry has no schema of the table under {subject}: {reason}"
    )]
    NotRegistered {
        /// The subject.
        subject: Subject,
        /// What is there instead.
        reason: String,
    },
    /// Any other refusal (401, 403, 404, 422…): the same request won't do better.
    #[error("schema registry rejects the request ({status}, error code {code}): {reason}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The registry's own code, or 0.
        code: i64,
        /// The registry's own words.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, RegistryError::Unavailable { .. })
    }
}

/// The client. Shared by reference; all methods are cancel-safe (a cancelled registration may still happen, and is
/// found again by the next one).
pub struct Registry {
    client: Client,
    urls: Vec<Url>,
    credentials: Option<(String, Password)>,
    /// The address that answered last.
    preferred: AtomicUsize,
    auto_register: bool,
    ids: Mutex<HashMap<(Subject, String), SchemaId>>,
    calls: AtomicU64,
    errors: AtomicU64,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("urls", &self.urls).finish_non_exhaustive()
    }
}

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// How much of an answer goes into an error: the sentence is at the beginning, a proxy's page has no end.
const REASON_CHARS_MAX: usize = 2000;

impl Registry {
    /// Reads certificates and checks the addresses; contacts nobody.
    ///
    /// # Errors
    /// [`RegistrySettingsError`]
    pub fn new(settings: &RegistrySettings) -> Result<Registry, RegistrySettingsError> {
        if settings.urls.is_empty() {
            return Err(RegistrySettingsError::NoUrl);
        }
        let mut credentials = settings
            .username
            .clone()
            .map(|user| (user, settings.password.clone().unwrap_or_else(|| Password::new(""))));
        let mut urls = Vec::with_capacity(settings.urls.len());
        for (index, text) in settings.urls.iter().enumerate() {
            let invalid = || RegistrySettingsError::InvalidUrl { position: index + 1 };
            let mut url = Url::parse(text.trim()).map_err(|_| invalid())?;
            if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
                return Err(invalid());
            }
            if let Some(embedded) = take_credentials(&mut url) {
                credentials.get_or_insert(embedded);
            }
            urls.push(url);
        }
        let encrypted = urls.iter().any(|url| url.scheme() == "https");
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(settings, encrypted)?)
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| RegistrySettingsError::Tls(with_causes(&error)))?;
        Ok(Registry {
            client,
            urls,
            credentials,
            preferred: AtomicUsize::new(0),
            auto_register: settings.auto_register,
            ids: Mutex::default(),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// The id of this schema under this subject, registering it if it is new. Asks once per pair.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn register(&self, subject: &Subject, schema_json: &str) -> Result<SchemaId, RegistryError> {
        let key = (subject.clone(), schema_json.to_owned());
        if let Some(id) = self.ids().get(&key) {
            return Ok(*id);
        }
        let body = json!({ "schema": schema_json });
        let answer = self.call(Method::POST, &["subjects", &subject.0, "versions"], Some(&body)).await?;
        let answer = if answer.status == StatusCode::CONFLICT {
            // Two instances that register the same first version at once: one of them can be refused. If the subject
            // has this very schema now, nothing is incompatible.
            let found = self.call(Method::POST, &["subjects", &subject.0], Some(&body)).await?;
            if found.status != StatusCode::OK {
                return Err(RegistryError::Incompatible {
                    subject: subject.clone(),
                    reason: answer.reason(),
                });
            }
            found
        } else {
            answer
        };
        let id = SchemaId(answer.parse::<Registered>()?.id);
        tracing::debug!(%subject, id = id.0, "schema registered");
        self.ids().insert(key, id);
        Ok(id)
    }

    /// The schema with this id; `None` if the registry has none.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn schema_by_id(&self, id: SchemaId) -> Result<Option<String>, RegistryError> {
        let answer = self.call(Method::GET, &["schemas", "ids", &id.0.to_string()], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        answer.parse::<Schema>().map(|answer| Some(answer.schema))
    }

    /// The compatibility level (`BACKWARD`, `NONE`, …) of a subject, or of the registry if the subject has none or
    /// none is asked for.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn compatibility(&self, subject: Option<&Subject>) -> Result<String, RegistryError> {
        if let Some(subject) = subject {
            let answer = self.call(Method::GET, &["config", &subject.0], None).await?;
            if answer.status != StatusCode::NOT_FOUND {
                return answer.parse::<Compatibility>().map(|answer| answer.level);
            }
        }
        let answer = self.call(Method::GET, &["config"], None).await?;
        answer.parse::<Compatibility>().map(|answer| answer.level)
    }

    /// Whether the registry answers and lets us in.
    ///
    /// # Errors
    /// [`RegistryError`]
    pub async fn reachable(&self) -> Result<(), RegistryError> {
        self.compatibility(None).await.map(drop)
    }

    /// Requests sent so far, to whichever address.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Those of them that brought no answer, or one of 400 and above.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashMap<(Subject, String), SchemaId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<Answer, RegistryError> {
        self.call_with(method, path, None, body).await
    }

    /// Asks one address after another, the one that answered last first, until one is available.
    async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        query: Option<(&str, &str)>,
        body: Option<&Value>,
    ) -> Result<Answer, RegistryError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut outage = None;
        for offset in 0..self.urls.len() {
            let index = (first + offset) % self.urls.len();
            match self.call_one(&self.urls[index], method.clone(), path, query, body).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => outage = Some(error),
            }
        }
        Err(outage.expect("a registry has at least one address"))
    }

    /// Any answer that isn't an outage.
    async fn call_one(
        &self,
        base: &Url,
        method: Method,
        path: &[&str],
        query: Option<(&str, &str)>,
        body: Option<&Value>,
    ) -> Result<Answer, RegistryError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut url = base.clone();
        url.path_segments_mut().expect("checked in Registry::new").pop_if_empty().extend(path);
        if let Some((name, value)) = query {
            url.query_pairs_mut().append_pair(name, value);
        }
        let mut request = self.client.request(method, url).header("Accept", MEDIA_TYPE);
        if let Some((user, password)) = &self.credentials {
            request = request.basic_auth(user, Some(password.expose()));
        }
        if let Some(body) = body {
            request = request.header("Content-Type", MEDIA_TYPE).body(body.to_string());
        }
        let answer = async {
            let response = request.send().await?;
            let status = response.status();
            response.bytes().await.map(|body| Answer { status, body: body.to_vec() })
        };
        let answer = answer.await.map_err(|error| with_causes(&error.without_url())).and_then(|answer| {
            let temporary = matches!(answer.status.as_u16(), 408 | 429 | 500..);
            if temporary { Err(format!("{}: {}", answer.status, answer.reason())) } else { Ok(answer) }
        });
        if answer.as_ref().map_or(true, |answer| answer.status.as_u16() >= 400) {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        answer.map_err(|reason| RegistryError::Unavailable { url: base.to_string(), reason })
    }
}

/// Moves user and password out of an address, so that no message shows them.
fn take_credentials(url: &mut Url) -> Option<(String, Password)> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_decoded(text);
    let credentials = (decoded(url.username()), Password::new(decoded(url.password().unwrap_or_default())));
    // Both can only fail for addresses without a host, which http and https don't allow.
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    Some(credentials)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// reqwest's errors say little; their sources say why.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
}

#[derive(Deserialize)]
struct Compatibility {
    /// `compatibility` is what the answer to a change of the level calls it, and what some registries always do.
    #[serde(rename = "compatibilityLevel", alias = "compatibility")]
    level: String,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error_code: i64,
    message: String,
}

impl Answer {
    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, RegistryError> {
        let rejected = |code, reason| RegistryError::Rejected { status: self.status.as_u16(), code, reason };
        if self.status.is_success() {
            return serde_json::from_slice(&self.body)
                .map_err(|_| rejected(0, "the answer is not that of a schema registry".to_owned()));
        }
        let code = serde_json::from_slice::<Refusal>(&self.body).map_or(0, |refusal| refusal.error_code);
        Err(rejected(code, self.reason()))
    }

    fn reason(&self) -> String {
        let text = match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        };
        text.chars().take(REASON_CHARS_MAX).collect()
    }
}
