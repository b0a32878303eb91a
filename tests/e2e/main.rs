//! End-to-end tests on a real Postgres, Kafka and schema registry: one file per behaviour, one checker for all.

mod harness;

mod basic_changes;
mod checker_itself;
