//! End-to-end tests on a real Postgres, Kafka and schema registry: one file per behaviour, one checker for all.
//!
//! A test begins in `harness::fixture` with a database, a slot and topics of its own, and ends in
//! `harness::checker`, which shares no code with the product. `cargo test --release --test e2e` starts the servers it
//! needs unless the environment names them (`deploy/local/stack env`).

mod harness;

mod apply;
mod apply_debezium;
mod apply_events;
mod apply_faults;
mod basic_changes;
mod beside_rows;
mod checker_itself;
mod commands;
mod connections;
mod dead_letters;
mod dead_letters_large;
mod debezium_takeover;
mod frozen_broker;
mod golden;
mod graceful_stop;
mod idle;
mod kafka_stopped;
mod kill_nine;
mod large;
mod lost_slot;
mod new_tables;
mod observed;
mod open_transaction;
mod outbox;
mod outbox_answers;
mod outbox_aside;
mod outbox_feedback;
mod outbox_kills;
mod outbox_mail;
mod outbox_options;
mod outbox_status;
mod outbox_tables;
mod postgres_away;
mod random_types;
mod record_keys;
mod refusals;
mod registry_away;
mod reselect;
mod routing;
mod savepoints;
mod schema_command;
mod schema_evolution;
mod schema_history;
mod schema_partitions;
mod schema_registry;
mod shapes;
mod slot_creation;
mod snapshot_changes;
mod snapshot_commands;
mod snapshot_faults;
mod snapshot_kills;
mod snapshot_memory;
mod snapshot_modes;
mod snapshot_moves;
mod snapshot_naive;
mod snapshot_roles;
mod snapshot_seen;
mod snapshot_shapes;
mod snapshot_signals;
mod snapshot_standby;
mod snapshots;
mod snapshots_beside;
mod stored;
mod takeover;
mod trace_context;
mod two_readers;
mod types_in_use;
mod values;
