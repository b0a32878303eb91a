//! A real server: HEADWATER_TEST_PG_PORT says where. It listens on 127.0.0.1, lets `postgres` in by trust and has
//! `wal_level = logical` and `max_prepared_transactions > 0`.

// Each test binary uses another part of it.
#![allow(dead_code)]

use headwater_pg::{ConnectSettings, connect};

use crate::fake::settings;

pub fn server(database: &str) -> ConnectSettings {
    let port = std::env::var("HEADWATER_TEST_PG_PORT").expect("needs a server").parse().expect("a port");
    ConnectSettings { user: "postgres".to_owned(), database: database.to_owned(), ..settings(port) }
}

/// An empty database of its own for one test.
pub async fn database(name: &str) -> ConnectSettings {
    let client = connect(&server("postgres")).await.expect("connected");
    let name = format!("headwater_pg_{name}");
    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.expect("dropped");
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("created");
    server(&name)
}
