//! Debezium's lists of regular expressions, as far as they are names with wildcards, which they mostly are.
//!
//! `public\.orders, audit_.*\..*` becomes `public.orders`, `audit_*.*`. A pattern that says more has no such form.

/// The patterns of a list; a comma behind a backslash belongs to a pattern.
pub fn split(list: &str) -> Vec<String> {
    let mut patterns = vec![String::new()];
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        let last = patterns.last_mut().expect("never empty");
        match character {
            '\\' if characters.peek() == Some(&',') => last.extend(characters.next()),
            '\\' => {
                last.push('\\');
                last.extend(characters.next());
            }
            ',' => patterns.push(String::new()),
            other => last.push(other),
        }
    }
    let patterns = patterns.iter().map(|pattern| pattern.trim().to_owned());
    patterns.filter(|pattern| !pattern.is_empty()).collect()
}

/// A name with `*` for a regular expression that is one; none for any other.
///
/// A bare dot is taken for the dot that it stands for in nearly every list (`public.orders`).
pub fn glob(pattern: &str) -> Option<String> {
    let mut glob = String::new();
    let mut rest = pattern.strip_prefix('^').unwrap_or(pattern);
    rest = rest.strip_suffix('$').unwrap_or(rest);
    while let Some(character) = rest.chars().next() {
        if let Some(after) = ["(.*)", "(.+)", ".*", ".+", "[^.]*", "[^.]+", "\\w+", "\\w*"]
            .iter()
            .find_map(|any| rest.strip_prefix(any))
        {
            glob.push('*');
            rest = after;
            continue;
        }
        if let Some(escaped) = rest.strip_prefix('\\') {
            let literal = escaped.chars().next().filter(|literal| !literal.is_ascii_alphanumeric())?;
            if matches!(literal, '*' | '?') {
                return None;
            }
            glob.push(literal);
            rest = &escaped[literal.len_utf8()..];
            continue;
        }
        if "*+?()[]{}|^$".contains(character) {
            return None;
        }
        glob.push(character);
        rest = &rest[character.len_utf8()..];
    }
    (!glob.is_empty()).then_some(glob)
}

/// A whole list, or the first pattern that has no such form.
pub fn globs(list: &str) -> Result<Vec<String>, String> {
    split(list).into_iter().map(|pattern| glob(&pattern).ok_or(pattern)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let check = |list: &str, expected: Result<&[&str], &str>| {
            let expected = expected.map(|globs| globs.iter().map(|glob| (*glob).to_owned()).collect());
            assert_eq!(globs(list), expected.map_err(str::to_owned), "{list}");
        };
        check("public.orders", Ok(&["public.orders"]));
        check(r"public\.orders , shop\.(.*)", Ok(&["public.orders", "shop.*"]));
        check(r"^audit_.*\.[^.]+$,,", Ok(&["audit_*.*"]));
        check(r"public\.weird\,name", Ok(&["public.weird,name"]));
        check(r"public\.orders_\d+", Err(r"public\.orders_\d+"));
        check("public.(a|b)", Err("public.(a|b)"));
        check("public.x?", Err("public.x?"));
        check(r"public\.a\*", Err(r"public\.a\*"));
        check("", Ok(&[]));
    }
}
