//! A regular expression and what stands in the place of what it matched, as Java has them: Debezium's
//! ByLogicalTableRouter and Kafka's RegexRouter ask whether a whole name matches, and then replace its first match.
//!
//! The two are nearly always one. They are not for `a|ab`: `ab` matches as a whole, and the first match in it is `a`.

use regex::Regex;

/// What Java's `Matcher.replaceFirst` does to names that match as a whole.
#[derive(Clone, Debug)]
pub struct Rewriting {
    whole: Regex,
    first: Regex,
    replacement: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Rewriting {
    /// Reads both.
    ///
    /// # Errors
    /// What is wrong with the expression, which groups the replacement lacks, or that either is meant for Java only.
    pub fn new(expression: &str, replacement: &str) -> Result<Rewriting, String> {
        let first = compile(expression)?;
        let whole = compile_whole(expression)?;
        let replacement = read_replacement(replacement, &first)?;
        Ok(Rewriting { whole, first, replacement })
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        self.first.as_str()
    }

    /// What the replacement has beside groups.
    pub fn fixed_texts(&self) -> impl Iterator<Item = &str> {
        self.replacement.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Group(_) => None,
        })
    }

    /// The name that it makes of this one; none if the name does not match as a whole.
    pub fn apply(&self, name: &str) -> Option<String> {
        if !self.whole.is_match(name) {
            return None;
        }
        let found = self.first.captures(name)?;
        let matched = found.get(0).expect("group 0 is the match");
        let mut rewritten = name[..matched.start()].to_owned();
        for piece in &self.replacement {
            match piece {
                Piece::Text(text) => rewritten.push_str(text),
                Piece::Group(group) => {
                    rewritten.push_str(found.get(*group).map_or("", |group| group.as_str()))
                }
            }
        }
        rewritten.push_str(&name[matched.end()..]);
        Some(rewritten)
    }
}

/// What matches a whole text, as Java's `Matcher.matches` does.
pub(crate) fn compile_whole(expression: &str) -> Result<Regex, String> {
    compile(expression)?;
    // A line feed ends the comment that an expression with (?x) may end with.
    compile(&format!(r"\A(?:{expression})\z")).or_else(|_| compile(&format!("\\A(?:{expression}\n)\\z")))
}

fn compile(expression: &str) -> Result<Regex, String> {
    Regex::new(expression).map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => format!("the expression takes more than {limit} bytes"),
        // The text has the expression with a mark below the place, on several lines; the last one says what it is.
        error => {
            let text = error.to_string();
            let what = text.lines().last().unwrap_or_default();
            format!("\"{expression}\" is no regular expression here: {}", what.trim_start_matches("error: "))
        }
    })
}

/// Java's replacement: `$1` to `$9` and longer as long as there is such a group, `${name}`, and a backslash that takes the
/// next character as it is.
fn read_replacement(text: &str, regex: &Regex) -> Result<Vec<Piece>, String> {
    let wrong = |what: &str| Err(format!("\"{text}\" {what}"));
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let group = match character {
            '\\' => match rest.next() {
                Some(escaped) => {
                    plain.push(escaped);
                    continue;
                }
                None => return wrong("ends with a backslash"),
            },
            '$' if rest.peek() == Some(&'{') => {
                let name: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                match regex.capture_names().position(|known| known == Some(&name)) {
                    Some(group) => group,
                    None => {
                        return wrong(&format!(
                            "has ${{{name}}}, and the expression has no group of that name"
                        ));
                    }
                }
            }
            '$' => {
                let digit = |c: &char| c.to_digit(10).map(|digit| digit as usize);
                let Some(mut group) = rest.peek().and_then(digit) else {
                    return wrong("has a $ without the number or {name} of a group behind it");
                };
                rest.next();
                while let Some(longer) = rest.peek().and_then(digit).map(|digit| group * 10 + digit)
                    && longer < regex.captures_len()
                {
                    group = longer;
                    rest.next();
                }
                if group >= regex.captures_len() {
                    return wrong(&format!(
                        "has ${group}, and the expression has {} groups",
                        regex.captures_len() - 1
                    ));
                }
                group
            }
            other => {
                plain.push(other);
                continue;
            }
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Group(group));
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_java_makes_of_them() {
        for (expression, replacement, name, expected) in [
            (
                r"(.*)customers_shard(.*)",
                "$1customers_all_shards",
                "p.db.customers_shard1",
                Some("p.db.customers_all_shards"),
            ),
            (r"shop\.public\.(.*)", "app.$1", "shop.public.item", Some("app.item")),
            (r"shop\.public\.(.*)", "app.$1", "shop.public2.item", None),
            // As a whole.
            (r"public", "x", "shop.public.item", None),
            // The first match is replaced, and not the whole.
            (r"a|ab", "x", "ab", Some("xb")),
            (r".*?", "x", "ab", Some("xab")),
            (r"(a)(b)?", "$2-$1", "a", Some("-a")),
            // A group's number is as long as there is such a group.
            (r"(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)", "$11", "abcdefghijk", Some("k")),
            (r"(.)(.*)", "$11", "abc", Some("a1")),
            (r"(?<first>[^.]*)\.(?<rest>.*)", "${rest}.${first}", "a.b.c", Some("b.c.a")),
            (r"(.*)", r"\$1-$1\\", "a", Some(r"$1-a\")),
            (r"(.*)", "fixed", "a", Some("fixed")),
            (r"(?i)SHOP\.(.*)", "$1", "shop.x", Some("x")),
            ("(?x) a (.*) # the rest", "$1", "ab", Some("b")),
        ] {
            let rewriting = Rewriting::new(expression, replacement).expect(expression);
            assert_eq!(rewriting.apply(name).as_deref(), expected, "{expression} {replacement} {name}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (expression, replacement, words) in [
            ("(", "x", "is no regular expression here: unclosed group"),
            (r"(?!a).*", "x", "look-around"),
            (r"(.)\1", "x", "backreferences"),
            ("(.*)", "$2", "has $2, and the expression has 1 groups"),
            (".*", "${name}", "no group of that name"),
            (".*", "a$", "a $ without the number"),
            (".*", "a$b", "a $ without the number"),
            (".*", "a\\", "ends with a backslash"),
        ] {
            let error = Rewriting::new(expression, replacement).expect_err(expression);
            assert!(error.contains(words), "{expression} {replacement}: {error}");
        }
    }
}
