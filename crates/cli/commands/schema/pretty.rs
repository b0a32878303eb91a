//! JSON with line breaks, in the order in which it is written: a schema's text has one canonical order, and a parsed
//! tree would lose it.

/// The same JSON, indented; `depth` is how deep its first line stands already.
pub fn indented(json: &str, depth: usize) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = depth;
    let (mut in_string, mut escaped) = (false, false);
    let mut characters = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = characters.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if characters.next_if(|next| matches!(next, '}' | ']')).is_some_and(|end| {
                    out.push(end);
                    true
                }) {
                    continue;
                }
                depth += 1;
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_strings_stay_as_they_are() {
        let json = r#"{"z":"a{\"[,:","a":[1,{"e":[]}],"o":{}}"#;
        let pretty = indented(json, 0);
        assert_eq!(
            pretty,
            "{\n  \"z\": \"a{\\\"[,:\",\n  \"a\": [\n    1,\n    {\n      \"e\": []\n    }\n  ],\n  \"o\": {}\n}"
        );
        assert_eq!(indented(&pretty, 0), pretty);
    }
}
