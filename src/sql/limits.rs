//! Limits on the length, depth and width of a statement; one that exceeds them is refused before it is parsed.
//!
//! The parser and DataFusion's planner recurse over a client's text, and some of their work grows faster than the text. So
//! the tokens are checked first, in one pass: [`check_tokens`] bounds their number, the nesting of brackets and `CASE`, the
//! depth that the syntax tree can reach (a chain `a + b + …` is as deep as it is long), and the width of a select list.
//! [`super::dialect::ParseBudget`] bounds the parser's backtracking. [`super::weight`] bounds the growth by views and WITH.
//!
//! The server, `weir query` and `weir check` use the same limits; `docs/sql.md` lists them.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::cursor::Parsed;
use super::{Diagnostic, Span};
use crate::error::SqlState;

/// Bytes of one statement that is sent to a server or given to `weir query`.
pub const MAX_STATEMENT_BYTES: usize = 256 << 10;
/// Bytes of one SQL file.
pub const MAX_FILE_BYTES: usize = 8 << 20;
/// Tokens of one statement.
pub const MAX_TOKENS: usize = 100_000;
/// Nesting of parentheses, brackets and `CASE`.
pub const MAX_NESTING: usize = 100;
/// Depth of the syntax tree: operators in a row, joins, UNIONs and brackets, one inside the other.
pub const MAX_DEPTH: usize = 500;
/// Ways to read the brackets in FROM, one inside the other: `((SELECT …` may be a query in brackets or a join that begins with one. The
/// parser tries both, so each such pair doubles the work.
pub const MAX_READINGS: usize = 1_024;
/// Columns of one SELECT, GROUP BY or ORDER BY.
pub const MAX_COLUMNS: usize = 2_000;
/// Fields of one type, or of all columns of a table, subquery or result; a nested field counts as one more.
pub const MAX_FIELDS: usize = 10_000;
/// Fields of all tables and subqueries that one statement reads.
pub const MAX_STATEMENT_FIELDS: usize = 30_000;
/// Columns and operations of one condition, with each column that a subquery computes replaced by its expression.
pub const MAX_CONDITION: usize = 100_000;
/// Limit for sqlparser's own recursion counter: several levels per bracket.
pub const PARSER_RECURSION: usize = 4 * MAX_NESTING;
/// Stacks of threads that plan. The deepest statement within the limits needs a small part of it, and only used pages take
/// memory.
pub const PLANNING_STACK_BYTES: usize = 256 << 20;
/// Stacks of threads that run plans, and drop them.
pub const STACK_BYTES: usize = 64 << 20;

/// Errors: a text that is too long to be read as a statement.
pub fn check_statement_text(text: &str, at: Span) -> Parsed<()> {
    bounded(text, MAX_STATEMENT_BYTES, "statement", at)
}

/// Errors: a text that is too long to be read as a file.
pub fn check_file_text(text: &str, at: Span) -> Parsed<()> {
    bounded(text, MAX_FILE_BYTES, "file", at)
}

fn bounded(text: &str, limit: usize, what: &str, at: Span) -> Parsed<()> {
    if text.len() <= limit {
        return Ok(());
    }
    let message = format!("this {what} has {} bytes, {limit} are allowed", text.len());
    Err(too_complex(at, message).with_hint(format!("Split the {what}; long lists of values belong into a table.")))
}

/// An error about a text that is too large, deep or wide.
pub fn too_complex(at: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(at, message).with_state(SqlState::TOO_COMPLEX)
}

/// Errors: the first position at which the tokens of one statement exceed a limit.
pub fn check_tokens(tokens: &[TokenWithSpan]) -> Parsed<()> {
    let mut scan = Scan { open: vec![Group::default()], counted: 0 };
    let mut before = None;
    for token in tokens {
        scan.token(&token.token, before, token.span.into())?;
        before = Some(&token.token);
    }
    let end = tokens.last().map(|last| last.span.into()).unwrap_or_default();
    while scan.open.len() > 1 {
        scan.leave(false);
    }
    scan.check_depth(end)
}

/// Precedence of an operator; also the index of its count in [`Group::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Binding {
    Or,
    And,
    Comparison,
    Arithmetic,
    Postfix,
}

const BINDINGS: usize = 5;

/// The part of a bracket's contents that was read so far.
#[derive(Debug, Default)]
struct Group {
    /// Opened by `CASE`, closed by `END`.
    is_case: bool,
    /// UNIONs, joins and other words whose left side is everything before them.
    chain: usize,
    /// Operators since one that binds less tightly, by binding.
    run: [usize; BINDINGS],
    /// The longest such run, by binding.
    longest: [usize; BINDINGS],
    /// Depth of the deepest bracket inside.
    deepest: usize,
    clause: Clause,
    /// Commas in the clause.
    commas: usize,
    /// Brackets directly around, this one among them, that stand for a table in FROM.
    tables: usize,
    /// Ways to read the brackets around, by [`MAX_READINGS`]; 0 for 1.
    readings: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Not in a query, or in a list that may have any length.
    #[default]
    Other,
    From,
    Columns,
}

impl Group {
    /// The greatest depth of a syntax tree for the tokens read so far.
    fn depth(&self) -> usize {
        let longest: usize = self.run.iter().zip(&self.longest).map(|(run, longest)| *run.max(longest)).sum();
        1 + self.chain + longest + self.deepest
    }

    fn operator(&mut self, binding: Binding) {
        let index = binding as usize;
        self.run[index] += 1;
        self.end_runs(index + 1);
    }

    fn end_runs(&mut self, from: usize) {
        for (run, longest) in self.run.iter_mut().zip(&mut self.longest).skip(from) {
            *longest = (*longest).max(*run);
            *run = 0;
        }
    }

    fn begin(&mut self, clause: Clause) {
        self.end_runs(0);
        self.clause = clause;
        self.commas = 0;
    }
}

/// First words of queries.
const QUERIES: [&str; 5] = ["SELECT", "WITH", "FROM", "VALUES", "TABLE"];

struct Scan {
    /// Never empty; the first is the statement.
    open: Vec<Group>,
    counted: usize,
}

impl Scan {
    fn token(&mut self, token: &Token, before: Option<&Token>, at: Span) -> Parsed<()> {
        self.counted += 1;
        if self.counted > MAX_TOKENS {
            let message = format!("this statement has more than {MAX_TOKENS} words and signs");
            return Err(too_complex(at, message).with_hint("Long lists of values belong into a table."));
        }
        match token {
            Token::SemiColon => {
                self.open.clear();
                self.open.push(Group::default());
                self.counted = 0;
                return Ok(());
            }
            Token::LParen | Token::LBracket | Token::LBrace => {
                let continues = matches!(before, Some(Token::RParen | Token::RBracket | Token::RBrace));
                if continues || *token == Token::LBracket {
                    self.group().operator(Binding::Postfix);
                }
                let tables = self.table_brackets(token, before);
                self.enter(false, at)?;
                self.group().tables = tables;
            }
            Token::RParen | Token::RBracket | Token::RBrace => self.leave(false),
            Token::Comma => return self.comma(at),
            Token::VerticalBarRightAngleBracket => {
                let group = self.group();
                group.begin(Clause::Other);
                group.chain += 1;
            }
            Token::Word(word) if word.quote_style.is_none() && before != Some(&Token::Period) => {
                self.word(word, before, at)?;
            }
            _ => {
                if let Some(binding) = sign(token) {
                    self.group().operator(binding);
                }
            }
        }
        self.check_depth(at)
    }

    fn group(&mut self) -> &mut Group {
        if self.open.is_empty() {
            self.open.push(Group::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn enter(&mut self, is_case: bool, at: Span) -> Parsed<()> {
        if self.open.len() > MAX_NESTING {
            let error = too_complex(at, format!("this is nested more than {MAX_NESTING} deep"));
            return Err(error.with_hint("Split it with `WITH` or a view."));
        }
        let readings = self.group().readings;
        self.open.push(Group { is_case, readings, ..Group::default() });
        Ok(())
    }

    /// The number of brackets that follow one another where FROM expects a table, with this one; 0 elsewhere.
    fn table_brackets(&mut self, token: &Token, before: Option<&Token>) -> usize {
        let group = self.group();
        match before {
            _ if *token != Token::LParen => 0,
            Some(Token::LParen) if group.tables > 0 => group.tables + 1,
            Some(Token::Comma) => usize::from(group.clause == Clause::From),
            Some(Token::Word(word)) => {
                let opens = ["FROM", "JOIN", "APPLY"].iter().any(|opens| word.value.eq_ignore_ascii_case(opens));
                usize::from(opens && word.quote_style.is_none())
            }
            _ => 0,
        }
    }

    /// Multiplies the readings of the brackets in which a query begins.
    fn query_begins(&mut self, at: Span) -> Parsed<()> {
        let group = self.group();
        group.readings = group.readings.max(1).saturating_mul(group.tables.max(1));
        if group.readings <= MAX_READINGS {
            return Ok(());
        }
        let error = too_complex(at, "there are too many ways to read the brackets around this query");
        Err(error
            .with_hint("Leave out brackets around brackets in FROM, or split the statement with `WITH` or a view."))
    }

    /// Closes a bracket, with every `CASE` in it that lacks its `END`.
    fn leave(&mut self, is_case: bool) {
        while self.open.len() > 1 {
            let Some(closed) = self.open.pop() else { return };
            let depth = closed.depth();
            let parent = self.group();
            parent.deepest = parent.deepest.max(depth);
            if closed.is_case == is_case {
                return;
            }
        }
    }

    fn comma(&mut self, at: Span) -> Parsed<()> {
        let group = self.group();
        group.end_runs(0);
        match group.clause {
            Clause::From => group.chain += 1,
            Clause::Columns => {
                group.commas += 1;
                if group.commas >= MAX_COLUMNS {
                    let message = format!("this list has more than {MAX_COLUMNS} columns");
                    return Err(too_complex(at, message).with_hint("Split it with a view, or keep arrays or structs."));
                }
            }
            Clause::Other => {}
        }
        self.check_depth(at)
    }

    fn word(&mut self, word: &Word, before: Option<&Token>, at: Span) -> Parsed<()> {
        let is_name = matches!(before, Some(Token::Word(before)) if before.value.eq_ignore_ascii_case("AS"));
        let is_distinct = matches!(before, Some(Token::Word(before)) if before.value.eq_ignore_ascii_case("DISTINCT"));
        let upper = word.value.to_ascii_uppercase();
        if before == Some(&Token::LParen) && QUERIES.contains(&upper.as_str()) {
            self.query_begins(at)?;
        }
        let group = self.group();
        match upper.as_str() {
            // `IS DISTINCT FROM` was counted at `IS`.
            "FROM" if is_distinct => {}
            "CASE" if !is_name => return self.enter(true, at),
            "END" if !is_name && group.is_case => self.leave(true),
            "OR" | "XOR" => group.operator(Binding::Or),
            "AND" => group.operator(Binding::And),
            "NOT" | "IS" | "IN" | "BETWEEN" | "LIKE" | "ILIKE" | "SIMILAR" | "RLIKE" | "REGEXP" | "ESCAPE" | "ANY"
            | "ALL" | "SOME" => group.operator(Binding::Comparison),
            "INTERVAL" | "PRIOR" | "OPERATOR" | "DIV" | "BINARY" | "OVERLAPS" | "CONNECT_BY_ROOT" => {
                group.operator(Binding::Arithmetic);
            }
            "AT" | "COLLATE" | "NOTNULL" | "ISNULL" => group.operator(Binding::Postfix),
            "UNION" | "EXCEPT" | "INTERSECT" | "MINUS" | "JOIN" | "APPLY" | "EXPLAIN" | "PIVOT" | "UNPIVOT"
            | "MATCH_RECOGNIZE" | "TABLESAMPLE" | "LATERAL" => {
                group.begin(Clause::Other);
                group.chain += 1;
            }
            "SELECT" | "BY" => group.begin(Clause::Columns),
            "FROM" => group.begin(Clause::From),
            "WHERE" | "HAVING" | "LIMIT" | "OFFSET" | "VALUES" | "WINDOW" | "QUALIFY" | "WITH" | "SET" => {
                group.begin(Clause::Other);
            }
            // A joined table may be followed by another in the FROM clause.
            "ON" | "USING" => group.begin(Clause::From),
            "WHEN" | "THEN" | "ELSE" => group.end_runs(0),
            _ => {}
        }
        Ok(())
    }

    fn check_depth(&self, at: Span) -> Parsed<()> {
        let Some(group) = self.open.last() else { return Ok(()) };
        if self.open.len() + group.depth() <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("this is more than {MAX_DEPTH} operations deep");
        Err(too_complex(at, message).with_hint(
            "A chain of operators, joins or UNIONs is as deep as it is long: use `IN (…)`, VALUES or views.",
        ))
    }
}

/// The binding of a symbol; `None` if it is no operator.
fn sign(token: &Token) -> Option<Binding> {
    Some(match token {
        Token::Eq | Token::DoubleEq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => {
            Binding::Comparison
        }
        Token::Spaceship | Token::RArrow | Token::Assignment => Binding::Comparison,
        Token::DoubleColon | Token::Period | Token::Colon => Binding::Postfix,
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::Mod | Token::StringConcat => Binding::Arithmetic,
        Token::EOF
        | Token::Word(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Whitespace(_) => return None,
        _ => Binding::Arithmetic,
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::shapes;
