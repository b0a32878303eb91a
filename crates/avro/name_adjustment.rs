//! Names of Postgres as names of Kafka and Avro, in the way of Debezium's `avro` adjustment mode.
//!
//! Whatever isn't allowed becomes `_`, one per UTF-16 unit (Debezium walks Java's chars); a leading digit gets a
//! `_` in front. Names that collide afterwards are an error where they meet, in [`crate::ValuePlan::new`].

/// The topic of a table: `<prefix>.<schema>.<table>`, with `_` for what Kafka doesn't allow in a topic's name.
pub fn topic_name(prefix: &str, schema: &str, table: &str) -> String {
    topic_part(&format!("{prefix}.{schema}.{table}"))
}

/// Any name as it stands in a topic's.
pub(crate) fn topic_part(name: &str) -> String {
    replace(name, crate::topic_template::legal_in_topic)
}

/// The Avro namespace of a topic: its dots separate names, each of which is adjusted.
pub fn namespace(topic: &str) -> String {
    topic.split('.').map(field_name).collect::<Vec<_>>().join(".")
}

/// The Avro name of a column.
pub fn field_name(column: &str) -> String {
    let mut name = replace(column, |c| c.is_ascii_alphanumeric() || c == '_');
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        name.insert(0, '_');
    }
    name
}

fn replace(name: &str, allowed: impl Fn(char) -> bool) -> String {
    let mut replaced = String::with_capacity(name.len());
    for c in name.chars() {
        if allowed(c) {
            replaced.push(c);
        } else {
            (0..c.len_utf16()).for_each(|_| replaced.push('_'));
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_debezium_wrote_them() {
        let topic = topic_name("zoo_db", "zoo", "Odd-Name $1");
        assert_eq!(topic, "zoo_db.zoo.Odd-Name__1");
        assert_eq!(namespace(&topic), "zoo_db.zoo.Odd_Name__1");
        let columns = ["ID", "with space", "1st", "dash-ed", "ünï", "select"];
        let adjusted = ["ID", "with_space", "_1st", "dash_ed", "_n_", "select"];
        assert_eq!(columns.map(field_name), adjusted);
    }

    #[test]
    fn a_character_beyond_the_basic_plane_is_two_in_java() {
        assert_eq!(field_name("🦀"), "__");
        assert_eq!(field_name("a.b"), "a_b");
        assert_eq!(namespace("p.1st.t"), "p._1st.t");
    }
}
