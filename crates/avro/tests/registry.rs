//! The registry client against a scripted server: each connection gets the next answer, or is cut.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_avro::registry::{Password, Registry, RegistryError, RegistrySettings, RegistrySettingsError};
use headwater_avro::{SchemaId, Subject, SubjectStrategy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16, &'static str),
    /// Says nothing and closes the connection.
    Cut,
    /// Says nothing and keeps the connection.
    Silence,
}

use Answer::{Cut, Silence, Status};

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: &[Answer]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (Arc::clone(&requests), answers.to_vec());
        tokio::spawn(async move {
            let mut silent = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let request = read_request(&mut socket).await;
                seen.lock().expect("no panic").push(request);
                match answer {
                    Status(status, body) => {
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        socket.write_all(answer.as_bytes()).await.expect("written");
                    }
                    Cut => drop(socket),
                    Silence => silent.push(socket),
                }
            }
            // Keep silent connections open, refuse new ones.
            drop(listener);
            std::future::pending::<()>().await;
        });
        Server { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

async fn read_request(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).await.expect("a request");
        bytes.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
            return text;
        }
    }
}

fn settings(urls: &[&str]) -> RegistrySettings {
    RegistrySettings {
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        username: None,
        password: None,
        ca_file: None,
        client_cert: None,
        timeout: Duration::from_millis(500),
        auto_register: true,
        key_subject: SubjectStrategy::TopicName,
        value_subject: SubjectStrategy::TopicName,
    }
}

fn registry(server: &Server) -> Registry {
    Registry::new(&settings(&[&server.url])).expect("good settings")
}

fn subject() -> Subject {
    Subject::for_value("shop.public.orders")
}

const SCHEMA: &str = r#"{"type":"record","name":"Value"}"#;

#[tokio::test]
async fn an_id_is_asked_for_once() {
    let server = Server::start(&[Status(200, r#"{"id":42}"#), Status(200, r#"{"id":43}"#)]).await;
    let registry = registry(&server);
    for _ in 0..3 {
        assert_eq!(registry.register(&subject(), SCHEMA).await, Ok(SchemaId(42)));
    }
    assert_eq!(registry.register(&subject(), r#""string""#).await, Ok(SchemaId(43)));
    assert_eq!((registry.calls(), registry.errors()), (2, 0));
    let requests = server.requests();
    assert!(
        requests[0].starts_with("POST /subjects/shop.public.orders-value/versions HTTP/1.1"),
        "{}",
        requests[0]
    );
    assert!(
        requests[0].ends_with(r#"{"schema":"{\"type\":\"record\",\"name\":\"Value\"}"}"#),
        "{}",
        requests[0]
    );
}

#[tokio::test]
async fn an_outage_is_not_remembered() {
    let answers = [
        Status(503, "busy"),
        Status(429, "{}"),
        Status(500, r#"{"error_code":50001,"message":"store"}"#),
        Cut,
        Silence,
        Status(200, r#"{"id":1}"#),
    ];
    let server = Server::start(&answers).await;
    let registry = registry(&server);
    for outage in 1..answers.len() {
        let error = registry.register(&subject(), SCHEMA).await.expect_err("an outage");
        assert!(error.is_retriable(), "{error}");
        assert_eq!(registry.errors(), outage as u64);
    }
    assert_eq!(registry.register(&subject(), SCHEMA).await, Ok(SchemaId(1)));
}

#[tokio::test]
async fn an_incompatible_schema_comes_with_the_registrys_reason() {
    let refusal = r#"{"error_code":409,"message":"reader field missing default"}"#;
    let server = Server::start(&[
        Status(409, refusal),
        Status(404, r#"{"error_code":40403,"message":"Schema not found"}"#),
    ])
    .await;
    let error = registry(&server).register(&subject(), SCHEMA).await.expect_err("a conflict");
    assert_eq!(
        error,
        RegistryError::Incompatible { subject: subject(), reason: "reader field missing default".to_owned() }
    );
    assert!(!error.is_retriable());
}

#[tokio::test]
async fn a_conflict_with_an_equal_registration_is_none() {
    let server =
        Server::start(&[Status(409, "{}"), Status(200, r#"{"subject":"s","id":5,"version":1}"#)]).await;
    assert_eq!(registry(&server).register(&subject(), SCHEMA).await, Ok(SchemaId(5)));
    assert!(server.requests()[1].starts_with("POST /subjects/shop.public.orders-value HTTP/1.1"));
}

#[tokio::test]
async fn other_refusals_are_final() {
    for (status, body, expected) in [
        (401, "", (0, "")),
        (403, r#"{"error_code":40301,"message":"no write"}"#, (40_301, "no write")),
        (422, r#"{"error_code":42201,"message":"Invalid schema"}"#, (42_201, "Invalid schema")),
        (200, "<html>", (0, "the answer is not that of a schema registry")),
    ] {
        let server = Server::start(&[Status(status, body)]).await;
        let error = registry(&server).register(&subject(), SCHEMA).await.expect_err("a refusal");
        let (code, reason) = (expected.0, expected.1.to_owned());
        assert_eq!(error, RegistryError::Rejected { status, code, reason });
        assert!(!error.is_retriable());
    }
}

#[tokio::test]
async fn what_may_not_be_registered_is_looked_for() {
    const ABSENT: Answer = Status(404, r#"{"error_code":40403,"message":"Schema not found"}"#);
    const SAME: Answer = Status(
        200,
        r#"{"id":7,"version":3,"schema":"{\"type\":\"record\",\"doc\":\"d\",\"name\":\"Value\"}"}"#,
    );
    const OTHER: Answer = Status(200, r#"{"id":8,"version":4,"schema":"\"string\""}"#);
    let check = async |answers: &[Answer], expected: Result<SchemaId, &str>| {
        let server = Server::start(answers).await;
        let settings = RegistrySettings { auto_register: false, ..settings(&[&server.url]) };
        let registry = Registry::new(&settings).expect("good settings");
        let found = registry.schema_id(&subject(), SCHEMA).await;
        match (found, expected) {
            (Ok(id), Ok(expected)) => assert_eq!(id, expected),
            (Err(RegistryError::NotRegistered { reason, .. }), Err(expected)) => assert_eq!(reason, expected),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
        assert_eq!(server.requests().len(), answers.len());
        assert!(
            server
                .requests()
                .iter()
                .all(|request| !request.starts_with("POST /subjects/shop.public.orders-value/"))
        );
    };
    check(&[Status(200, r#"{"id":5,"version":1}"#)], Ok(SchemaId(5))).await;
    check(&[ABSENT, SAME], Ok(SchemaId(7))).await;
    check(&[ABSENT, ABSENT], Err("there is no such subject")).await;
    let differs =
        "its latest version 4 is another schema (its type is record, not string); the registry would ";
    let verdict = Status(200, r#"{"is_compatible":true}"#);
    check(&[ABSENT, OTHER, verdict], Err(&format!("{differs}take the table's as compatible"))).await;
    // An older registry compares with the latest version only.
    let verdict = Status(200, r#"{"is_compatible":false,"messages":["x","y"]}"#);
    check(
        &[ABSENT, OTHER, ABSENT, verdict],
        Err(&format!("{differs}refuse the table's as incompatible: x; y")),
    )
    .await;
    let verdict = Status(200, r#"{"is_compatible":false,"messages":null}"#);
    check(&[ABSENT, OTHER, verdict], Err(&format!("{differs}refuse the table's as incompatible: "))).await;
}

#[tokio::test]
async fn a_level_is_set_for_one_subject() {
    let server = Server::start(&[Status(200, r#"{"compatibility":"NONE"}"#)]).await;
    assert_eq!(registry(&server).allow_any(&subject()).await, Ok(()));
    let request = server.requests().remove(0);
    assert!(request.starts_with("PUT /config/shop.public.orders-value HTTP/1.1"), "{request}");
    assert!(request.ends_with(r#"{"compatibility":"NONE"}"#), "{request}");
}

#[tokio::test]
async fn the_next_address_is_tried_and_kept() {
    let (broken, good) = (
        Server::start(&[Cut]).await,
        Server::start(&[Status(200, r#"{"id":1}"#), Status(200, r#"{"id":2}"#)]).await,
    );
    let registry = Registry::new(&settings(&[&broken.url, &good.url])).expect("good settings");
    assert_eq!(registry.register(&subject(), SCHEMA).await, Ok(SchemaId(1)));
    assert_eq!(registry.register(&subject(), r#""bytes""#).await, Ok(SchemaId(2)));
    assert_eq!((broken.requests().len(), registry.calls(), registry.errors()), (1, 3, 1));
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let server =
        Server::start(&[Status(200, r#"{"compatibilityLevel":"BACKWARD"}"#), Status(200, "{}"), Cut]).await;
    let with_user = server.url.replace("http://", "http://sesame:op%40n@");
    let registry = Registry::new(&settings(&[&with_user])).expect("good settings");
    assert_eq!(registry.reachable().await, Ok(()));
    assert!(
        server.requests()[0].to_lowercase().contains("authorization: basic c2vzyw1lom9wqg4="),
        "sesame:op@n"
    );
    for _ in 0..2 {
        let error = registry.compatibility(None).await.expect_err("a bad answer, then none");
        let texts = format!("{error} {error:?} {registry:?}");
        assert!(!texts.contains("op") || !texts.contains("op%40n") && !texts.contains("op@n"), "{texts}");
        assert!(!texts.contains("sesame"), "{texts}");
    }
    let mut settings = settings(&["http://ftp:secret@"]);
    settings.password = Some(Password::new("secret"));
    assert!(!format!("{:?}", settings.password).contains("secret"));
    let error = Registry::new(&settings).expect_err("no address");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_subject_without_a_level_has_the_registrys() {
    let none = Status(404, r#"{"error_code":40408,"message":"no subject-level compatibility"}"#);
    let server = Server::start(&[none, Status(200, r#"{"compatibilityLevel":"FULL"}"#)]).await;
    assert_eq!(registry(&server).compatibility(Some(&subject())).await.as_deref(), Ok("FULL"));
}

#[tokio::test]
async fn a_schema_by_its_id() {
    let server = Server::start(&[
        Status(200, r#"{"schema":"\"string\""}"#),
        Status(404, r#"{"error_code":40403,"message":"Schema not found"}"#),
    ])
    .await;
    let registry = registry(&server);
    assert_eq!(registry.schema_by_id(SchemaId(1)).await, Ok(Some(r#""string""#.to_owned())));
    assert_eq!(registry.schema_by_id(SchemaId(2)).await, Ok(None));
    assert!(server.requests()[0].starts_with("GET /schemas/ids/1 HTTP/1.1"));
}

#[test]
fn settings_are_checked_at_once() {
    assert!(matches!(Registry::new(&settings(&[])), Err(RegistrySettingsError::NoUrl)));
    for url in ["localhost:8081", "ftp://localhost", "http://", ""] {
        let error = Registry::new(&settings(&["http://localhost", url])).expect_err(url);
        assert!(matches!(error, RegistrySettingsError::InvalidUrl { position: 2 }), "{url}: {error}");
    }
    let mut unreadable = settings(&["https://localhost"]);
    unreadable.ca_file = Some("/nonexistent/ca.pem".into());
    let error = Registry::new(&unreadable).expect_err("no such file");
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
