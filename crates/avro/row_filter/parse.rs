//! From text to an expression, by recursive descent; whatever is wrong is named with its position.

use super::{Expression, Literal, Operator};

/// How deep parentheses and NOT may stand in each other.
const DEPTH_MAX: usize = 64;

/// Reads the whole text.
pub(super) fn expression(text: &str) -> Result<Expression, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, end: text.chars().count() + 1, depth: 0 };
    let expression = parser.or()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expression),
        Some(_) => Err(parser.expected("AND, OR or the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A bare name or keyword, as written.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    Text(String),
    Number(String),
    Operator(Operator),
    Open,
    Close,
    Comma,
}

/// Tokens, each with its position from 1.
fn tokens(text: &str) -> Result<Vec<(Token, usize)>, String> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = characters.get(at) {
        let start = at;
        let token = match c {
            _ if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '(' => one(&mut at, Token::Open),
            ')' => one(&mut at, Token::Close),
            ',' => one(&mut at, Token::Comma),
            '\'' => Token::Text(quoted(&characters, &mut at)?),
            '"' => Token::Quoted(quoted(&characters, &mut at)?),
            '=' | '<' | '>' | '!' => operator(&characters, &mut at)?,
            '-' | '0'..='9' => number(&characters, &mut at)?,
            _ if c.is_alphabetic() || c == '_' => {
                let is_part = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '$');
                at += characters[at..].iter().take_while(|c| is_part(c)).count();
                Token::Word(characters[start..at].iter().collect())
            }
            other => return Err(format!("character {}: '{other}' has no meaning here", at + 1)),
        };
        tokens.push((token, start + 1));
    }
    Ok(tokens)
}

fn one(at: &mut usize, token: Token) -> Token {
    *at += 1;
    token
}

/// Up to the same quote; a doubled one stands for itself.
fn quoted(characters: &[char], at: &mut usize) -> Result<String, String> {
    let (start, quote) = (*at, characters[*at]);
    let mut text = String::new();
    *at += 1;
    loop {
        match (characters.get(*at), characters.get(*at + 1)) {
            (None, _) => return Err(format!("character {}: the quote is not closed", start + 1)),
            (Some(c), Some(next)) if *c == quote && *next == quote => {
                text.push(quote);
                *at += 2;
            }
            (Some(c), _) if *c == quote => {
                *at += 1;
                return Ok(text);
            }
            (Some(c), _) => {
                text.push(*c);
                *at += 1;
            }
        }
    }
}

fn operator(characters: &[char], at: &mut usize) -> Result<Token, String> {
    let (operator, length) = match (characters[*at], characters.get(*at + 1)) {
        ('<', Some('>')) | ('!', Some('=')) => (Operator::NotEqual, 2),
        ('<', Some('=')) => (Operator::LessOrEqual, 2),
        ('>', Some('=')) => (Operator::GreaterOrEqual, 2),
        ('<', _) => (Operator::Less, 1),
        ('>', _) => (Operator::Greater, 1),
        ('=', _) => (Operator::Equal, 1),
        _ => return Err(format!("character {}: '!' stands only in !=", *at + 1)),
    };
    *at += length;
    Ok(Token::Operator(operator))
}

fn number(characters: &[char], at: &mut usize) -> Result<Token, String> {
    let start = *at;
    let digits = |at: &mut usize| {
        let count = characters[*at..].iter().take_while(|c| c.is_ascii_digit()).count();
        *at += count;
        count
    };
    *at += usize::from(characters[*at] == '-');
    let mut is_whole = digits(at) > 0;
    if characters.get(*at) == Some(&'.') {
        *at += 1;
        is_whole &= digits(at) > 0;
    }
    if !is_whole || characters.get(*at).is_some_and(|c| c.is_alphanumeric() || *c == '.') {
        return Err(format!("character {}: a number is written as 12, -3 or 4.50", start + 1));
    }
    Ok(Token::Number(characters[start..*at].iter().collect()))
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// The position behind the last character.
    end: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn expected(&self, what: &str) -> String {
        let position = self.tokens.get(self.at).map_or(self.end, |(_, position)| *position);
        format!("character {position}: {what} is expected here")
    }

    /// Takes a keyword if it comes next.
    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    fn take(&mut self, token: &Token, what: &str) -> Result<(), String> {
        if self.peek() != Some(token) {
            return Err(self.expected(what));
        }
        self.at += 1;
        Ok(())
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut terms = vec![self.and()?];
        while self.keyword("or") {
            terms.push(self.and()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expression::Or(terms) })
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut terms = vec![self.not()?];
        while self.keyword("and") {
            terms.push(self.not()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expression::And(terms) })
    }

    fn not(&mut self) -> Result<Expression, String> {
        if self.depth == DEPTH_MAX {
            return Err(self.expected("an end of NOTs and parentheses in each other"));
        }
        self.depth += 1;
        let expression = if self.keyword("not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.peek() == Some(&Token::Open) {
            self.at += 1;
            let inner = self.or()?;
            self.take(&Token::Close, "a closing parenthesis")?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let column = match self.peek() {
            // As in SQL, a bare name is in lower case.
            Some(Token::Word(word)) if !is_reserved(word) => word.to_lowercase(),
            Some(Token::Quoted(name)) => name.clone(),
            _ => return Err(self.expected("a column")),
        };
        self.at += 1;
        if self.keyword("is") {
            let is_not = self.keyword("not");
            if !self.keyword("null") {
                return Err(self.expected("NULL"));
            }
            return Ok(negated(is_not, Expression::IsNull { column }));
        }
        let is_not = self.keyword("not");
        if self.keyword("in") {
            return Ok(negated(is_not, Expression::In { column, literals: self.literals()? }));
        }
        match self.peek() {
            Some(Token::Operator(operator)) if !is_not => {
                let operator = *operator;
                self.at += 1;
                Ok(Expression::Compare { column, operator, literal: self.literal()? })
            }
            _ if is_not => Err(self.expected("IN")),
            _ => Err(self.expected("a comparison, IN or IS NULL")),
        }
    }

    fn literals(&mut self) -> Result<Vec<Literal>, String> {
        self.take(&Token::Open, "an opening parenthesis")?;
        let mut literals = vec![self.literal()?];
        while self.peek() == Some(&Token::Comma) {
            self.at += 1;
            literals.push(self.literal()?);
        }
        self.take(&Token::Close, "a comma or a closing parenthesis")?;
        Ok(literals)
    }

    fn literal(&mut self) -> Result<Literal, String> {
        let literal = match self.peek() {
            Some(Token::Text(text)) => Literal::Text(text.clone()),
            Some(Token::Number(number)) => Literal::Number(number.clone()),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Literal::Bool(true),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Literal::Bool(false),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => {
                return Err(self.expected("a value (NULL is tested with IS NULL)"));
            }
            _ => return Err(self.expected("'text', a number, true or false")),
        };
        self.at += 1;
        Ok(literal)
    }
}

fn is_reserved(word: &str) -> bool {
    ["and", "or", "not", "in", "is", "null", "true", "false"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

fn negated(is_not: bool, expression: Expression) -> Expression {
    if is_not { Expression::Not(Box::new(expression)) } else { expression }
}
