//! Patterns over names: `*` stands for any run of characters and `?` for any one.

/// Whether the whole text matches. After a mismatch the last `*` takes one character more, which is enough: what an
/// earlier one could take in its place, the last one can as well.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&c) if c == '?' || c == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    at = star_at + 1;
                    from = taken + 1;
                    star = Some((star_at, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_whole_names() {
        for (pattern, name, expected) in [
            ("public.orders", "public.orders", true),
            ("public.orders", "public.orders2", false),
            ("public.*", "public.orders", true),
            ("*.orders", "shop.orders", true),
            ("public.audit_*", "public.audit", false),
            ("public.audit_*", "public.audit_", true),
            ("*a*b*c", "xaxbxbxc", true),
            ("*a*b*c", "xaxbxbx", false),
            ("public.part_????", "public.part_2024", true),
            ("public.part_????", "public.part_24", false),
            ("*", "a.ü", true),
            ("?.?", "a.ü", true),
            ("", "a.b", false),
        ] {
            assert_eq!(glob_matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
