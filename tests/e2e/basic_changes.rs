//! Every kind of change, on every version of Postgres.
