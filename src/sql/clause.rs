//! Positions of clauses in the text, for errors about a plan's node: DataFusion's plans keep the contents of a clause but
//! not its position. A clause is found by its keywords and, if there are several, by the names that it must contain.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::is_keyword;
use super::lexer::{fold, tokenize};
use super::split::split;
use super::{SourceFile, Span};

/// Kinds of clauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClauseKind {
    /// `[LEFT] JOIN t ON …`.
    Join,
    GroupBy,
    /// `SELECT DISTINCT`.
    Distinct,
    /// `f(…) OVER (…)`.
    Over,
    OrderBy,
    /// `LIMIT`, `OFFSET`, `FETCH`.
    Limit,
    /// `EXISTS (…)` or `IN (SELECT …)`.
    Subquery,
    /// A call of the first name.
    Call,
    /// The table of the first name.
    Table,
}

/// A clause that an error is about. It travels as the error's source.
#[derive(Debug, Clone, Default)]
pub struct Clause {
    /// Possible kinds; the first kind with a clause in the text is taken.
    pub kinds: Vec<ClauseKind>,
    /// Names that occur in it.
    pub names: Vec<String>,
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.kinds, self.names.join(", "))
    }
}

impl std::error::Error for Clause {}

/// A clause in the text: the range that is shown, and the ranges that are searched for names.
struct Candidate {
    shown: Range<usize>,
    read: Vec<Range<usize>>,
}

/// Words that end a clause of a SELECT.
const ENDS: &[&str] = &[
    "WHERE",
    "GROUP",
    "HAVING",
    "WINDOW",
    "QUALIFY",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "UNION",
    "INTERSECT",
    "EXCEPT",
];
/// Words before JOIN.
const JOINS: &[&str] = &["INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "SEMI", "ANTI", "ASOF", "NATURAL"];

impl Clause {
    /// The clause's span within `statements`, each given by its own span or that of its name; `None` if no clause matches,
    /// or several different ones do.
    pub fn find(&self, files: &[Arc<SourceFile>], statements: &[Span]) -> Option<Span> {
        let texts: Vec<Vec<TokenWithSpan>> = statements.iter().filter_map(|place| statement(files, *place)).collect();
        self.kinds.iter().find_map(|kind| {
            let mut best: Vec<(usize, Span, String)> = Vec::new();
            for tokens in &texts {
                for candidate in candidates(tokens, *kind, &self.names) {
                    let score = self.names.iter().filter(|name| candidate.mentions(tokens, name)).count();
                    if best.first().is_none_or(|(known, ..)| *known < score) {
                        best.clear();
                    }
                    if best.first().is_none_or(|(known, ..)| *known == score) {
                        best.push((score, candidate.span(tokens), candidate.text(tokens)));
                    }
                }
            }
            let (_, span, text) = best.first()?;
            best.iter().all(|(.., other)| other == text).then_some(*span)
        })
    }
}

impl Candidate {
    fn new(shown: Range<usize>) -> Self {
        Self { read: vec![shown.clone()], shown }
    }

    fn mentions(&self, tokens: &[TokenWithSpan], name: &str) -> bool {
        let mut read = self.read.iter().flat_map(|range| &tokens[range.clone()]);
        read.any(|token| match &token.token {
            Token::Word(word) => named(word, name),
            Token::SingleQuotedString(text) => text == name,
            _ => false,
        })
    }

    fn span(&self, tokens: &[TokenWithSpan]) -> Span {
        let (first, last) = (&tokens[self.shown.start], &tokens[self.shown.end - 1]);
        Span::from(first.span).to(last.span.into())
    }

    fn text(&self, tokens: &[TokenWithSpan]) -> String {
        let read = self.read.iter().flat_map(|range| &tokens[range.clone()]);
        read.map(|token| token.token.to_string()).collect::<Vec<_>>().join(" ")
    }
}

fn named(word: &Word, name: &str) -> bool {
    if word.quote_style.is_some() { word.value == name } else { fold(&word.value) == fold(name) }
}

/// The tokens of the statement at `place`, which may cover its name only.
fn statement(files: &[Arc<SourceFile>], place: Span) -> Option<Vec<TokenWithSpan>> {
    let file = files.get(usize::from(place.file)).filter(|_| !place.is_empty())?;
    let tokens = tokenize(&file.text, place.file, &mut Vec::new());
    let within: Vec<TokenWithSpan> =
        tokens.iter().filter(|token| place.contains(Span::from(token.span))).cloned().collect();
    if within.len() > 1 {
        return Some(within);
    }
    let range = split(&tokens, &mut Vec::new()).into_iter().find(|range| {
        let span = Span::from(tokens[range.start].span).to(tokens[range.end - 1].span.into());
        span.contains(place)
    })?;
    Some(tokens[range].to_vec())
}

fn candidates(tokens: &[TokenWithSpan], kind: ClauseKind, names: &[String]) -> Vec<Candidate> {
    let is = |index: usize, word: &str| is_keyword(tokens.get(index).map(|token| &token.token), word);
    let name = names.first().map_or("", String::as_str);
    let is_name = |index: usize| matches!(&tokens[index].token, Token::Word(word) if named(word, name));
    let opens = |index: usize| tokens.get(index).is_some_and(|token| token.token == Token::LParen);
    let at = |index: usize| -> Option<Candidate> {
        match kind {
            ClauseKind::Join if is(index, "JOIN") => {
                let mut start = index;
                while start > 0 && JOINS.iter().any(|word| is(start - 1, word)) {
                    start -= 1;
                }
                let end = end_of(tokens, index + 1, &[JOINS, &["JOIN"], ENDS].concat());
                Some(Candidate::new(start..end))
            }
            ClauseKind::GroupBy if is(index, "GROUP") && is(index + 1, "BY") => {
                Some(Candidate::new(index..end_of(tokens, index + 2, ENDS)))
            }
            ClauseKind::Distinct if is(index, "DISTINCT") && index > 0 && is(index - 1, "SELECT") => {
                let read = index..end_of(tokens, index + 1, &["FROM"]);
                Some(Candidate { shown: index..index + 1, read: vec![read] })
            }
            ClauseKind::Over if is(index, "OVER") => over(tokens, index),
            ClauseKind::OrderBy if is(index, "ORDER") && is(index + 1, "BY") => {
                Some(Candidate::new(index..end_of(tokens, index + 2, ENDS)))
            }
            ClauseKind::Limit if ["LIMIT", "OFFSET", "FETCH"].iter().any(|word| is(index, word)) => {
                Some(Candidate::new(index..end_of(tokens, index + 1, ENDS)))
            }
            ClauseKind::Subquery if is(index, "EXISTS") && opens(index + 1) => {
                Some(Candidate::new(index..closing(tokens, index + 1)))
            }
            ClauseKind::Subquery if is(index, "IN") && opens(index + 1) && is(index + 2, "SELECT") => {
                Some(Candidate::new(index..closing(tokens, index + 1)))
            }
            ClauseKind::Call if is_name(index) && opens(index + 1) => {
                Some(Candidate::new(index..closing(tokens, index + 1)))
            }
            ClauseKind::Table if is_name(index) && !opens(index + 1) && index > 0 => {
                let before = index - 1;
                let follows = ["FROM", "JOIN", "TABLE"].iter().any(|word| is(before, word));
                (follows || tokens[before].token == Token::Comma).then(|| Candidate::new(index..index + 1))
            }
            _ => None,
        }
    };
    (0..tokens.len()).filter_map(at).collect()
}

/// The first token from `start` on that is one of `words`, a comma that separates tables, or the end of the brackets.
fn end_of(tokens: &[TokenWithSpan], start: usize, words: &[&str]) -> usize {
    let mut depth = 0usize;
    for index in start..tokens.len() {
        match &tokens[index].token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => return index,
            Token::RParen => depth -= 1,
            Token::SemiColon => return index,
            // `left(x, 1)` is a function.
            token
                if depth == 0
                    && index > start
                    && words.iter().any(|word| is_keyword(Some(token), word))
                    && tokens.get(index + 1).is_none_or(|next| next.token != Token::LParen) =>
            {
                return index;
            }
            _ => {}
        }
    }
    tokens.len()
}

/// One past the bracket that closes the one at `open`.
fn closing(tokens: &[TokenWithSpan], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// `f(…) OVER (…)` or `f(…) OVER name` with the definition of the name.
fn over(tokens: &[TokenWithSpan], index: usize) -> Option<Candidate> {
    let mut depth = 0usize;
    let mut start = index;
    while start > 0 {
        start -= 1;
        match tokens[start].token {
            Token::RParen => depth += 1,
            Token::LParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && tokens[start].token == Token::LParen {
            // `f(…) FILTER (…) OVER`.
            if !is_keyword(start.checked_sub(1).map(|before| &tokens[before].token), "FILTER") {
                break;
            }
        }
    }
    let start = start.saturating_sub(1);
    let next = tokens.get(index + 1)?;
    let Token::Word(window) = &next.token else {
        return Some(Candidate::new(start..closing(tokens, index + 1)));
    };
    let shown = start..index + 2;
    let defined = (index + 2..tokens.len().saturating_sub(2)).find(|at| {
        matches!(&tokens[*at].token, Token::Word(word) if named(word, &window.value))
            && is_keyword(Some(&tokens[at + 1].token), "AS")
            && tokens[at + 2].token == Token::LParen
    });
    let definition = defined.map(|at| at..closing(tokens, at + 2));
    Some(Candidate { read: std::iter::once(shown.clone()).chain(definition).collect(), shown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Position;

    /// The text of the clause that is found.
    fn found(text: &str, kinds: &[ClauseKind], names: &[&str]) -> Option<String> {
        let file = SourceFile::new("a.sql", text);
        let end = text.chars().count() as u32 + 1;
        let span = Span { file: 0, start: Position { line: 1, column: 1 }, end: Position { line: 1, column: end } };
        let clause = Clause { kinds: kinds.to_vec(), names: names.iter().map(|name| (*name).to_owned()).collect() };
        let files = [Arc::new(file)];
        clause.find(&files, &[span]).map(|span| files[0].slice(span).to_owned())
    }

    #[test]
    fn clauses_are_found_by_keyword_and_by_what_they_name() {
        use ClauseKind::{Distinct, GroupBy, Join, Over, Subquery, Table};
        let two = "SELECT * FROM a JOIN b ON a.x = b.x LEFT JOIN c ON left(a.y, 1) = c.y WHERE a.z > 1";
        assert_eq!(found(two, &[Join], &["c", "y"]).as_deref(), Some("LEFT JOIN c ON left(a.y, 1) = c.y"));
        assert_eq!(found(two, &[Join], &["b", "x"]).as_deref(), Some("JOIN b ON a.x = b.x"));
        assert_eq!(found(two, &[Join], &[]), None, "either could be meant");
        let group = "SELECT DISTINCT a FROM (SELECT a, count(*) FROM t GROUP BY a HAVING count(*) > 1)";
        assert_eq!(found(group, &[GroupBy], &["a"]).as_deref(), Some("GROUP BY a"));
        assert_eq!(found(group, &[Distinct], &["a"]).as_deref(), Some("DISTINCT"));
        let over =
            "SELECT sum(v) FILTER (WHERE v > 0) OVER w, max(v) OVER (ORDER BY n) FROM t WINDOW w AS (ORDER BY ts)";
        assert_eq!(found(over, &[Over], &["sum", "ts"]).as_deref(), Some("sum(v) FILTER (WHERE v > 0) OVER w"));
        assert_eq!(found(over, &[Over], &["max", "n"]).as_deref(), Some("max(v) OVER (ORDER BY n)"));
        let other = "SELECT * FROM t WHERE a IN (SELECT b FROM u) OR a = 1";
        assert_eq!(found(other, &[Subquery], &[]).as_deref(), Some("IN (SELECT b FROM u)"));
        assert_eq!(found(other, &[Join, Table], &["u"]).as_deref(), Some("u"));
    }
}
