//! Any bytes are a message or an error that says where, and what was decoded can be used without failing.
//! `tests/fixtures/pgoutput` is a good corpus to start from: one message per line, in hexadecimal.

#![no_main]

use headwater_pgoutput::{Column, Message, Tuple};
use libfuzzer_sys::fuzz_target;

fn walk(tuple: &Tuple<'_>, body: &[u8]) {
    assert_eq!(tuple.columns().count(), tuple.len());
    let value_bytes = tuple.columns().map(|column| match column {
        Column::Null | Column::Unchanged => 0,
        Column::Text(value) | Column::Binary(value) => value.len(),
    });
    assert!(value_bytes.sum::<usize>() < body.len());
    assert_eq!(tuple.column(tuple.len()), None);
}

fuzz_target!(|body: &[u8]| {
    let message = match Message::decode(body) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.offset <= body.len() && !error.to_string().is_empty());
            return;
        }
    };
    assert!(!format!("{message:?}").is_empty());
    assert!(Message::decode(&body[..body.len() - 1]).is_err(), "a part of a message is none");
    match message {
        Message::Insert(insert) => walk(&insert.new, body),
        Message::Update(update) => {
            walk(&update.new, body);
            update.old.iter().for_each(|old| walk(old.tuple(), body));
        }
        Message::Delete(delete) => walk(delete.old.tuple(), body),
        Message::Truncate(truncate) => assert!(truncate.relations.count() < body.len()),
        _ => {}
    }
});
