//! What Debezium stored of its position, as Kafka Connect keeps it: JSON under a key of JSON.
//!
//! ```text
//! key    ["shop-connector",{"server":"shop"}]             the connector's name, its topic.prefix
//! value  {"lsn":26330456,"lsn_proc":26330456,"lsn_commit":26330024,"txId":737,"ts_usec":…,"messageType":"INSERT"}
//! ```
//!
//! `lsn_commit` is the end of the last commit that was read before the record that was acknowledged last; `lsn` is
//! that record's own position, `lsn_proc` that of the last one which was completed. Positions are numbers.

use headwater_pgoutput::Lsn;
use headwater_pipeline::take_over::Handover;
use serde_json::{Map, Value};

/// One connector's stored offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOffset {
    /// The connector's name.
    pub connector: String,
    /// How far it came.
    pub handover: Handover,
    /// The transaction of the last row that was acknowledged.
    pub transaction: Option<u64>,
}

/// Finds the offset of a topic prefix, and of a connector if it is named, among key and value pairs in the order in
/// which they were written.
pub fn find(
    entries: impl IntoIterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)>,
    prefix: &str,
    connector: Option<&str>,
) -> Result<StoredOffset, String> {
    let mut found: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    let mut others = Vec::new();
    for (key, value) in entries {
        let Some((name, server)) = key.as_deref().and_then(read_key) else { continue };
        if server != prefix || connector.is_some_and(|connector| connector != name) {
            others.push(format!("{name} (topic.prefix {server})"));
            continue;
        }
        found.retain(|(known, _)| *known != name);
        found.push((name, value));
    }
    others.sort();
    others.dedup();
    found.retain(|(_, value)| value.is_some());
    match found.as_slice() {
        [(name, Some(value))] => read_value(name, value),
        [] => Err(format!(
            "no offset of {} with topic.prefix {prefix}{}",
            connector.map_or_else(|| "a connector".to_owned(), |name| format!("the connector {name}")),
            match others.as_slice() {
                [] => "; there is none of any connector".to_owned(),
                others => format!("; there are those of {}", others.join(", ")),
            }
        )),
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!(
                "several connectors have topic.prefix {prefix}: name one with --connector ({})",
                names.join(", ")
            ))
        }
    }
}

/// Name and server of a key; other tools keep other keys in the same topic.
fn read_key(key: &[u8]) -> Option<(String, String)> {
    let (name, partition): (String, Map<String, Value>) = serde_json::from_slice(key).ok()?;
    Some((name, partition.get("server")?.as_str()?.to_owned()))
}

fn read_value(connector: &str, value: &[u8]) -> Result<StoredOffset, String> {
    let wrong = |why: &str| format!("the offset of the connector {connector} {why}");
    let offset: Map<String, Value> = serde_json::from_slice(value).map_err(|_| wrong("is no JSON object"))?;
    refuse_snapshot(connector, &offset)?;
    let lsn = |name: &str| match offset.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(number) => match number.as_u64() {
            Some(number) => Ok(Some(Lsn(number))),
            None => Err(wrong(&format!("has a {name} that is no position"))),
        },
    };
    let (row, processed, committed) = (lsn("lsn")?, lsn("lsn_proc")?, lsn("lsn_commit")?);
    let seen =
        row.max(processed).ok_or_else(|| wrong("has no lsn: it is no offset of the PostgreSQL connector"))?;
    Ok(StoredOffset {
        connector: connector.to_owned(),
        handover: Handover { committed, seen },
        transaction: offset.get("txId").and_then(Value::as_u64),
    })
}

/// Rows that a snapshot did not come to are in no stream.
fn refuse_snapshot(connector: &str, offset: &Map<String, Value>) -> Result<(), String> {
    let is = |name: &str| offset.get(name) == Some(&Value::Bool(true));
    let under_way = match offset.get("snapshot") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(_) => !is("snapshot_completed") && !is("last_snapshot_record"),
    };
    if under_way {
        return Err(format!(
            "the connector {connector} has not completed its initial snapshot: rows that it did not come to would be \
             missing. Let it run until it streams, then stop it and take over"
        ));
    }
    if offset.get("incremental_snapshot_collections").is_some_and(|tables| !tables.is_null()) {
        return Err(format!(
            "the connector {connector} is in an incremental snapshot: rows that it did not come to would be missing. \
             Let it finish, or stop it with the signal stop-snapshot, then take over"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries = Vec<(Option<Vec<u8>>, Option<Vec<u8>>)>;

    fn entry(key: &str, value: &str) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let value = (!value.is_empty()).then(|| value.as_bytes().to_vec());
        (Some(key.as_bytes().to_vec()), value)
    }

    const KEY: &str = r#"["shop-connector",{"server":"shop"}]"#;

    #[test]
    fn positions() {
        let check = |value: &str, expected: Result<(Option<u64>, u64, Option<u64>), &str>| match (
            find(vec![entry(KEY, value)], "shop", None),
            expected,
        ) {
            (Ok(offset), Ok((committed, seen, transaction))) => {
                let handover = Handover { committed: committed.map(Lsn), seen: Lsn(seen) };
                let connector = "shop-connector".to_owned();
                assert_eq!(offset, StoredOffset { connector, handover, transaction });
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (result, _) => panic!("{value}: {result:?}"),
        };
        check(
            r#"{"lsn_proc":26330456,"lsn_events_processed":1,"messageType":"INSERT","lsn_commit":26330024,"lsn":26330456,"txId":737,"ts_usec":1795272550573720}"#,
            Ok((Some(26_330_024), 26_330_456, Some(737))),
        );
        check(r#"{"lsn":5,"lsn_proc":7,"lsn_commit":null}"#, Ok((None, 7, None)));
        check(r#"{"lsn":5,"snapshot":"INITIAL","snapshot_completed":true}"#, Ok((None, 5, None)));
        check(r#"{"lsn":5,"snapshot":true,"last_snapshot_record":true}"#, Ok((None, 5, None)));
        check(r#"{"lsn":5,"snapshot":"INITIAL","snapshot_completed":false}"#, Err("initial snapshot"));
        check(r#"{"lsn":5,"snapshot":true,"last_snapshot_record":false}"#, Err("initial snapshot"));
        check(r#"{"lsn":5,"snapshot":"INITIAL"}"#, Err("initial snapshot"));
        check(r#"{"lsn":5,"incremental_snapshot_collections":"[…]"}"#, Err("incremental snapshot"));
        check(r#"{"lsn":"0/5"}"#, Err("lsn that is no position"));
        check(r#"{"lsn":-5}"#, Err("lsn that is no position"));
        check(r#"{"file":"mysql-bin.000003","pos":154}"#, Err("no lsn"));
        check("[]", Err("no JSON object"));
    }

    #[test]
    fn the_newest_offset_of_the_right_connector() {
        let newest = |entries: Entries, prefix: &str, connector: Option<&str>| {
            find(entries, prefix, connector).map(|offset| offset.handover.seen.0)
        };
        let other = r#"["billing",{"server":"billing"}]"#;
        let twin = r#"["shop-copy",{"server":"shop"}]"#;
        let entries = || {
            vec![
                entry(KEY, r#"{"lsn":1}"#),
                entry(other, r#"{"lsn":50}"#),
                entry("not JSON", "{}"),
                (None, None),
                entry(KEY, r#"{"lsn":2}"#),
            ]
        };
        assert_eq!(newest(entries(), "shop", None), Ok(2));
        assert_eq!(newest(entries(), "billing", Some("billing")), Ok(50));
        let twins = || [entries(), vec![entry(twin, r#"{"lsn":3}"#)]].concat();
        assert!(
            newest(twins(), "shop", None).unwrap_err().contains("--connector (shop-connector, shop-copy)")
        );
        assert_eq!(newest(twins(), "shop", Some("shop-copy")), Ok(3));
        let missing = newest(entries(), "orders", None).unwrap_err();
        assert!(
            missing.contains("billing (topic.prefix billing), shop-connector (topic.prefix shop)"),
            "{missing}"
        );
        let deleted = [entries(), vec![entry(KEY, "")]].concat();
        assert!(
            newest(deleted, "shop", None).unwrap_err().contains("no offset"),
            "DELETE /connectors/x/offsets"
        );
    }
}
