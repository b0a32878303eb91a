//! Which DDL statements `schema plan --on-source` runs: forms that are known to change the catalog only.
//!
//! By an allow-list, because after the fact is too late: a statement that rewrites a table has read and written all of
//! it under an exclusive lock before anything could be compared. Whatever is not recognised is refused.

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or a name without quotes, in lower case.
    Word(String),
    /// A name in quotes.
    Quoted,
    Number,
    /// A string literal.
    Text,
    /// One character of punctuation, or `::`.
    Symbol(&'static str),
}

/// What has to be asked of the server before the statement may run.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Types of added columns and of constants, as written. None may be a domain, whose constraint would rewrite the
    /// table, nor `serial`, which is none.
    pub new_types: Vec<String>,
}

/// Judges a statement; the error says why it is refused.
pub fn judge(sql: &str) -> Result<Allowed, String> {
    let tokens = tokens(sql)?;
    let mut at = Cursor { sql, tokens: &tokens, next: 0, new_types: Vec::new() };
    match () {
        () if at.words(&["alter", "table"]) => {
            let _ = at.words(&["if", "exists"]);
            let _ = at.word("only");
            at.qualified_name()?;
            at.actions()?;
        }
        () if at.words(&["alter", "type"]) => {
            at.qualified_name()?;
            at.type_action()?;
        }
        () => return Err("it is neither ALTER TABLE nor ALTER TYPE".to_owned()),
    }
    let _ = at.symbol(";");
    match at.peek() {
        None => Ok(Allowed { new_types: at.new_types }),
        Some(_) => Err(at.refusal("it goes on in a way that is not known to leave the table as it is")),
    }
}

struct Cursor<'a> {
    sql: &'a str,
    tokens: &'a [(Token, usize)],
    next: usize,
    new_types: Vec<String>,
}

impl Cursor<'_> {
    /// `ADD COLUMN`, `DROP COLUMN`, `ALTER COLUMN`, `REPLICA IDENTITY`, several with commas; or one `RENAME` or `SET SCHEMA`.
    fn actions(&mut self) -> Result<(), String> {
        if self.word("rename") {
            let _ = self.word("column");
            if !self.word("to") {
                self.name()?;
                self.expect("to")?;
            }
            return self.name();
        }
        if self.words(&["set", "schema"]) {
            return self.name();
        }
        loop {
            self.action()?;
            if !self.symbol(",") {
                return Ok(());
            }
        }
    }

    fn action(&mut self) -> Result<(), String> {
        if self.word("add") {
            let _ = self.word("column");
            for word in ["constraint", "primary", "unique", "check", "foreign", "exclude", "not"] {
                if self.peek() == Some(&Token::Word(word.to_owned())) {
                    return Err(self.refusal("a constraint reads the whole table"));
                }
            }
            let _ = self.words(&["if", "not", "exists"]);
            self.name()?;
            self.new_column()
        } else if self.word("drop") {
            if self.word("constraint") {
                return Err(self.refusal("dropping a constraint is not on the list of known forms"));
            }
            let _ = self.word("column");
            let _ = self.words(&["if", "exists"]);
            self.name()?;
            let _ = self.word("restrict");
            Ok(())
        } else if self.word("alter") {
            let _ = self.word("column");
            self.name()?;
            self.column_action()
        } else if self.words(&["replica", "identity"]) {
            if self.words(&["using", "index"]) {
                return self.name();
            }
            match ["default", "full", "nothing"].into_iter().any(|word| self.word(word)) {
                true => Ok(()),
                false => Err(self.refusal("the replica identity is DEFAULT, FULL, NOTHING or USING INDEX")),
            }
        } else {
            Err(self.refusal("this form of ALTER TABLE is not known to leave the table as it is"))
        }
    }

    /// A type, `NOT NULL`, and a default that is a constant: then rows stay as they are.
    fn new_column(&mut self) -> Result<(), String> {
        self.noted_type()?;
        loop {
            if self.words(&["not", "null"]) || self.word("null") {
                continue;
            }
            if self.word("default") {
                self.constant()?;
                continue;
            }
            return match self.peek() {
                None | Some(Token::Symbol("," | ";")) => Ok(()),
                Some(_) => {
                    Err(self.refusal("a new column may have a type, NOT NULL and a constant default here"))
                }
            };
        }
    }

    fn column_action(&mut self) -> Result<(), String> {
        if self.words(&["drop", "not", "null"]) || self.words(&["drop", "default"]) {
            return Ok(());
        }
        if self.words(&["set", "default"]) {
            return self.constant();
        }
        if self.words(&["set", "not", "null"]) {
            return Err(self.refusal("SET NOT NULL reads the whole table under an exclusive lock"));
        }
        if self.words(&["set", "data", "type"]) || self.word("type") {
            return Err(self.refusal("changing a column's type can rewrite the whole table"));
        }
        Err(self.refusal("this form of ALTER COLUMN is not known to leave the table as it is"))
    }

    fn type_action(&mut self) -> Result<(), String> {
        if self.words(&["add", "value"]) {
            let _ = self.words(&["if", "not", "exists"]);
            self.text()?;
            return if self.word("before") || self.word("after") { self.text() } else { Ok(()) };
        }
        if self.words(&["rename", "value"]) {
            self.text()?;
            self.expect("to")?;
            return self.text();
        }
        if self.words(&["rename", "to"]) || self.words(&["set", "schema"]) {
            return self.name();
        }
        Err(self.refusal(
            "of ALTER TYPE only ADD VALUE, RENAME VALUE, RENAME TO and SET SCHEMA are known to be harmless",
        ))
    }

    /// A number, a string, TRUE, FALSE or NULL, perhaps with a sign and a cast.
    fn constant(&mut self) -> Result<(), String> {
        let signed = self.symbol("-") || self.symbol("+");
        let good = match self.peek() {
            Some(Token::Number) => true,
            Some(Token::Text) => !signed,
            Some(Token::Word(word)) => !signed && matches!(word.as_str(), "true" | "false" | "null"),
            _ => false,
        };
        if !good {
            return Err(self.refusal("a default that is computed can rewrite the table; a constant can't"));
        }
        let is_text = self.peek() == Some(&Token::Text);
        self.next += 1;
        // A string is read by the type's own input function; casting a number can call any function.
        while is_text && self.symbol("::") {
            self.noted_type()?;
        }
        Ok(())
    }

    /// A type that the server has to be asked about.
    fn noted_type(&mut self) -> Result<(), String> {
        let start = self.offset();
        self.type_name()?;
        self.new_types.push(self.sql[start..self.offset()].trim().to_owned());
        Ok(())
    }

    /// Words up to what can follow a type, with `(10, 2)` and `[]`.
    fn type_name(&mut self) -> Result<(), String> {
        const ENDS: &[&str] = &[
            "not",
            "null",
            "default",
            "collate",
            "check",
            "unique",
            "primary",
            "references",
            "generated",
            "constraint",
            "storage",
            "compression",
        ];
        let start = self.next;
        while let Some(token) = self.peek() {
            match token {
                Token::Word(word) if ENDS.contains(&word.as_str()) => break,
                Token::Word(_) | Token::Quoted | Token::Number => {}
                Token::Symbol("(") if self.next > start => {
                    self.next += 1;
                    while !self.symbol(")") {
                        if !matches!(self.peek(), Some(Token::Number | Token::Symbol("," | "-"))) {
                            return Err(self.refusal("a type's modifiers are numbers"));
                        }
                        self.next += 1;
                    }
                    continue;
                }
                Token::Symbol("[" | "]" | ".") if self.next > start => {}
                _ => break,
            }
            self.next += 1;
        }
        if self.next == start { Err(self.refusal("here a type is missing")) } else { Ok(()) }
    }

    fn qualified_name(&mut self) -> Result<(), String> {
        self.name()?;
        if self.symbol(".") { self.name() } else { Ok(()) }
    }

    fn name(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(Token::Word(_) | Token::Quoted) => {
                self.next += 1;
                Ok(())
            }
            _ => Err(self.refusal("here a name is missing")),
        }
    }

    fn text(&mut self) -> Result<(), String> {
        match self.peek() {
            Some(Token::Text) => {
                self.next += 1;
                Ok(())
            }
            _ => Err(self.refusal("here a label in single quotes is missing")),
        }
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.refusal(&format!("here {} is missing", word.to_uppercase())))
        }
    }

    fn word(&mut self, word: &str) -> bool {
        self.words(&[word])
    }

    /// Takes these words if all of them come next.
    fn words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(at, word)| {
            matches!(self.tokens.get(self.next + at), Some((Token::Word(found), _)) if found == word)
        });
        if found {
            self.next += words.len();
        }
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        if found {
            self.next += 1;
        }
        found
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.next).map_or(self.sql.len(), |(_, offset)| *offset)
    }

    fn refusal(&self, why: &str) -> String {
        let rest: String = self.sql[self.offset()..].chars().take(30).collect();
        if rest.is_empty() { format!("{why} (at its end)") } else { format!("{why} (at \"{rest}\")") }
    }
}

const SYMBOLS: &[(&str, &str)] = &[
    ("::", "::"),
    ("(", "("),
    (")", ")"),
    ("[", "["),
    ("]", "]"),
    (",", ","),
    (".", "."),
    (";", ";"),
    ("-", "-"),
    ("+", "+"),
];

/// Comments, escapes in strings and dollar quotes are refused: nothing on the list needs them, and each is a way to make
/// a statement look like another one.
fn tokens(sql: &str) -> Result<Vec<(Token, usize)>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let (token, length) = match first {
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            '-' if rest.starts_with("--") => return Err("it has a comment".to_owned()),
            '\'' => (Token::Text, quoted_length(rest, '\'')?),
            '"' => (Token::Quoted, quoted_length(rest, '"')?),
            c if c.is_alphabetic() || c == '_' => {
                let end =
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
                if rest[end..].starts_with('\'') || rest[end..].starts_with("&") {
                    return Err("it has a string with a prefix".to_owned());
                }
                (Token::Word(rest[..end].to_lowercase()), end)
            }
            c if c.is_ascii_digit() => {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
                (Token::Number, end)
            }
            _ => match SYMBOLS.iter().find(|(text, _)| rest.starts_with(text)) {
                Some((text, symbol)) => (Token::Symbol(symbol), text.len()),
                None => return Err(format!("it has a character that is not expected here: {first}")),
            },
        };
        found.push((token, at));
        at += length;
    }
    Ok(found)
}

/// With its quotes; a doubled quote is one inside.
fn quoted_length(text: &str, quote: char) -> Result<usize, String> {
    let mut at = 1;
    loop {
        let end = text[at..].find(quote).ok_or("a quote is not closed")?;
        if text[at..at + end].contains('\\') {
            return Err("it has a backslash in quotes".to_owned());
        }
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return Ok(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_known_to_be_harmless_pass() {
        let check = |sql: &str, expected: Option<&[&str]>| {
            let types = judge(sql).map(|allowed| allowed.new_types);
            match expected {
                Some(expected) => assert_eq!(
                    types.as_deref(),
                    Ok(&expected.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()[..]),
                    "{sql}"
                ),
                None => assert!(types.is_err(), "{sql} passes"),
            }
        };
        check("ALTER TABLE t ADD COLUMN a int", Some(&["int"]));
        check(
            "alter table public.\"T\" add price numeric(10, 2) not null default 0.5;",
            Some(&["numeric(10, 2)"]),
        );
        check(
            "ALTER TABLE t ADD a text[] , DROP COLUMN b, ADD COLUMN c timestamp with time zone default null",
            Some(&["text[]", "timestamp with time zone"]),
        );
        check("ALTER TABLE t ADD COLUMN a text DEFAULT 'it''s'::text", Some(&["text", "text"]));
        check("ALTER TABLE IF EXISTS ONLY t DROP COLUMN IF EXISTS a RESTRICT", Some(&[]));
        check("ALTER TABLE t RENAME a TO b", Some(&[]));
        check("ALTER TABLE t RENAME COLUMN a TO b", Some(&[]));
        check("ALTER TABLE t RENAME TO u", Some(&[]));
        check("ALTER TABLE t SET SCHEMA s", Some(&[]));
        check(
            "ALTER TABLE t ALTER a SET DEFAULT -1, ALTER COLUMN b DROP DEFAULT, ALTER c DROP NOT NULL",
            Some(&[]),
        );
        check("ALTER TABLE t REPLICA IDENTITY FULL", Some(&[]));
        check("ALTER TABLE t REPLICA IDENTITY USING INDEX i", Some(&[]));
        check("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'happy' AFTER 'ok'", Some(&[]));
        check("ALTER TYPE mood RENAME VALUE 'a' TO 'b'", Some(&[]));
        for refused in [
            "ALTER TABLE t ALTER a TYPE bigint",
            "ALTER TABLE t ALTER COLUMN a SET DATA TYPE bigint",
            "ALTER TABLE t ALTER a SET NOT NULL",
            "ALTER TABLE t ADD COLUMN a int DEFAULT random()",
            "ALTER TABLE t ADD COLUMN a timestamptz DEFAULT now()",
            "ALTER TABLE t ADD COLUMN a int DEFAULT 1 + 1",
            "ALTER TABLE t ADD COLUMN a odd DEFAULT 1::odd",
            "ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS IDENTITY",
            "ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS (b) STORED",
            "ALTER TABLE t ADD COLUMN a int REFERENCES u",
            "ALTER TABLE t ADD COLUMN a int CHECK (a > 0)",
            "ALTER TABLE t ADD COLUMN a int PRIMARY KEY",
            "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)",
            "ALTER TABLE t ADD PRIMARY KEY (a)",
            "ALTER TABLE t DROP COLUMN a CASCADE",
            "ALTER TABLE t DROP CONSTRAINT c",
            "ALTER TABLE t SET UNLOGGED",
            "ALTER TABLE t SET TABLESPACE s",
            "ALTER TABLE t SET WITH OIDS",
            "ALTER TABLE t ATTACH PARTITION p DEFAULT",
            "ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b",
            "ALTER TABLE t ADD a int; DROP TABLE t",
            "ALTER TABLE t ADD a int; COMMIT",
            "ALTER TABLE t ADD a int /* x */",
            "ALTER TABLE t ADD a int -- x",
            "ALTER TABLE t ADD a text DEFAULT E'\\''",
            "ALTER TABLE t ADD a text DEFAULT $$x$$",
            "ALTER TABLE t ADD a text DEFAULT 'a\\'",
            "ALTER TABLE t ADD a",
            "ALTER TABLE t",
            "ALTER TYPE mood ADD ATTRIBUTE a int",
            "ALTER TYPE mood ADD VALUE $1",
            "DROP TABLE t",
            "VACUUM FULL t",
            "COMMIT",
            "",
            "ALTER TABLE t ADD COLUMN \"a",
        ] {
            check(refused, None);
        }
    }
}
