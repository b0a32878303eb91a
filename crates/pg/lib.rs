//! Everything that talks to Postgres.
//!
//! Three kinds of connection, opened by the same code with the same TLS and the same rules for logging in:
//! a [`Session`] speaks the replication protocol and becomes a [`ReplicationStream`]; a [`Client`] runs SQL;
//! a [`CopySession`] copies rows.
//!
//! # Layout, in the order in which a connection comes to life
//! - `settings`, `error`: what goes in, what goes wrong.
//! - `transport`, `tls`, `end_point`, `auth`, `connect`: from an address to a session that is ready for a query.
//! - `wire`, `frame`: bytes to protocol messages and back; the buffers outlive a cancelled read.
//! - `session`, `cancel`: replication commands. `client`, `copy_in`, `text_parameter`: SQL, through tokio-postgres.
//! - `replication`, `wal_batch`, `status`: the stream of WAL and the answers to it.
//! - `lazy_read`, `receive_low_water`: how it reads while there is a backlog.
//! - `copy_out`, `copy_rows`: rows of COPY. `transaction_snapshot`: what is seen while they are copied.
//! - `snapshot_tables`, `copy_statements`: what of the published tables is to be copied, and the SQL for it.
//! - `slot`, `publication`, `catalog`: questions to the system catalogs.

mod settings;

mod error;

mod transport;

mod tls;

mod end_point;

mod auth;

mod connect;

mod wire;

mod frame;

mod session;

mod cancel;

mod client;

mod copy_in;

mod text_parameter;

mod replication;

mod wal_batch;

mod status;

mod lazy_read;

mod receive_low_water;

mod copy_out;

mod copy_rows;

/// Which transactions are open.
pub mod open_transactions;
pub mod transaction_snapshot;

pub mod snapshot_tables;

mod copy_statements;

pub mod lock_wait;

pub mod slot;

pub mod publication;
pub mod relation;

pub mod definition;

pub mod catalog;

pub mod read_back;

pub use client::{Client, connect};
pub use copy_in::copy_in;
pub use copy_out::CopySession;
pub use copy_rows::CopyRows;
pub use error::{Error, ErrorKind, ServerError};
pub use replication::{DEFAULT_MAX_FRAME_BYTES, ReplicationStream};
pub use session::{CreatedSlot, PgoutputOptions, Session, SystemIdentity};
pub use settings::{ChannelBinding, ConnectSettings, Host, RootCert, Secret, SslMode, TlsSettings};
pub use status::StandbyStatus;
pub use text_parameter::TextParameter;
pub use tokio_postgres::{SimpleQueryMessage, Statement};
pub use wal_batch::{Frame, Frames, WalBatch};
