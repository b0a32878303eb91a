//! What it costs to decode a row message and to read its columns.

fn main() {}
