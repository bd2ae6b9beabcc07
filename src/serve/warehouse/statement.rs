//! SQL text to one statement that only reads.
//!
//! Two forms that DataFusion's parser does not accept are rewritten as tokens, so that positions in its errors stay correct:
//! `?` becomes `$1`, `$2` …, and `t VERSION AS OF 3` or `t TIMESTAMP AS OF '…'` becomes the name `"t@v3"` or `"t@t…"`, which
//! [`split_version`] splits when the name is looked up. Table functions and temporal joins are parsed as in pipelines
//! ([`crate::sql`]).

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use crate::delta::AsOf;
use crate::error::{Error, SqlState};
use crate::sql::cursor::{Cursor, Parsed};
use crate::sql::diagnostic::lower_first;
use crate::sql::dialect::ParseBudget;
use crate::sql::dialect::WeirDialect;
use crate::sql::embedded::{located, too_heavy};
use crate::sql::lexer::tokenize_part;
use crate::sql::limits::{PARSER_RECURSION, check_statement_text, check_tokens};
use crate::sql::normalize::normalize;
use crate::sql::temporal::mark_joins;
use crate::sql::weight::{Known, Weight};
use crate::sql::{Diagnostic, Span, accept, distinct, literals, sets};

/// The tokens of the one statement at `span` of a file, whose text is `text`, with positions in that file.
pub fn tokens(text: &str, span: Span) -> Parsed<Vec<TokenWithSpan>> {
    check_statement_text(text, span)?;
    let mut errors = Vec::new();
    let mut tokens = tokenize_part(text, span, &mut errors);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    while tokens.last().is_some_and(|last| last.token == Token::SemiColon) {
        tokens.pop();
    }
    if tokens.is_empty() {
        return Err(Diagnostic::new(span, "there is no statement").with_hint("Try `SHOW TABLES`."));
    }
    check_tokens(&tokens)?;
    let ends = tokens.iter().position(|token| token.token == Token::SemiColon);
    match ends.and_then(|end| tokens.get(end + 1)) {
        Some(next) => {
            Err(Diagnostic::new(next.span.into(), "more than one statement").with_hint("Send statements one by one."))
        }
        None => Ok(tokens),
    }
}

/// Parses one statement. Errors: it is not a query, SHOW, DESCRIBE or EXPLAIN.
pub fn parse(tokens: Vec<TokenWithSpan>) -> Parsed<Statement> {
    let all = tokens.first().map(|first| Span::from(first.span).to(last_span(&tokens))).unwrap_or_default();
    let tokens = normalize(&name_versions(number_placeholders(tokens)?)?);
    let dialect = WeirDialect::for_tokens(tokens.len());
    let parser =
        DFParserBuilder::new(tokens.clone()).with_dialect(&dialect).with_recursion_limit(PARSER_RECURSION).build();
    let parsed = parser.and_then(|mut parser| {
        let mut statements = parser.parse_statements()?;
        let rest = statements.len();
        Ok(statements.pop_front().filter(|_| rest == 1))
    });
    let mut statement = match parsed {
        Ok(Some(statement)) => statement,
        Ok(None) => {
            return Err(Diagnostic::new(all, "more than one statement").with_hint("Send statements one by one."));
        }
        Err(error) => return Err(syntax_error(&error, &tokens, dialect.budget(), all)),
    };
    if !reads(&statement) {
        return Err(refusal(&tokens, all).unwrap_or_else(|| writes(all)));
    }
    check_clauses(&statement, &tokens)?;
    joins_in_time(&mut statement)?;
    if let Some(excess) = weight(&statement).excess() {
        return Err(too_heavy(&tokens, excess));
    }
    Ok(statement)
}

fn weight(statement: &Statement) -> Weight {
    match statement {
        Statement::Statement(statement) => Known::NOTHING.weigh(statement.as_ref()),
        Statement::Explain(explain) => weight(&explain.statement),
        _ => Weight::ONE,
    }
}

/// As [`function::shorten_names`](crate::function::shorten_names), in a statement that is explained, too.
pub fn shorten_names(statement: &mut Statement, state: &SessionState) {
    match statement {
        Statement::Statement(statement) => crate::function::shorten_names(statement.as_mut(), state),
        Statement::Explain(explain) => shorten_names(&mut explain.statement, state),
        _ => {}
    }
}

fn last_span(tokens: &[TokenWithSpan]) -> Span {
    tokens.last().map(|token| token.span.into()).unwrap_or_default()
}

fn syntax_error(error: &DataFusionError, tokens: &[TokenWithSpan], budget: &ParseBudget, all: Span) -> Diagnostic {
    match error {
        DataFusionError::SQL(error, _) => located(error, tokens, budget),
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            syntax_error(inner, tokens, budget, all)
        }
        other => Diagnostic::new(all, lower_first(&other.message())).with_state(SqlState::SYNTAX),
    }
}

/// Objects that `SHOW` lists from system tables.
const SHOWN: [&str; 10] = [
    "state",
    "progress",
    "pipelines",
    "views",
    "materialized views",
    "sources",
    "sinks",
    "models",
    "functions",
    "secrets",
];

/// `SHOW STATE | PROGRESS | PIPELINES | SOURCES | … [FOR pipeline]` as a query of a system table, and the name of that
/// table.
pub fn system_query(tokens: &[TokenWithSpan]) -> Option<(&'static str, String)> {
    let mut cursor = Cursor::new(tokens);
    if !cursor.eat(&["SHOW"]) {
        return None;
    }
    let shown = SHOWN.iter().find(|shown| cursor.eat(&shown.split(' ').collect::<Vec<_>>()))?;
    let table = if *shown == "materialized views" { "materialized_views" } else { *shown };
    let is_of_pipeline = matches!(table, "state" | "progress" | "pipelines");
    let query = format!("SELECT * FROM weir.{table}");
    if is_of_pipeline && cursor.eat(&["FOR"]) {
        cursor.eat(&["PIPELINE"]);
        let pipeline = cursor.name("the pipeline's name").ok()?;
        return cursor
            .at_end()
            .then(|| (table, format!("{query} WHERE pipeline = '{}'", pipeline.value.replace('\'', "''"))));
    }
    cursor.at_end().then_some((table, query))
}

fn check_clauses(statement: &Statement, tokens: &[TokenWithSpan]) -> Parsed<()> {
    match statement {
        Statement::Statement(statement) => accept::check(statement.as_ref(), tokens),
        Statement::Explain(explain) => check_clauses(&explain.statement, tokens),
        _ => Ok(()),
    }
}

fn joins_in_time(statement: &mut Statement) -> Parsed<()> {
    match statement {
        Statement::Statement(statement) => {
            literals::rewrite(statement.as_mut())?;
            mark_joins(statement.as_mut())?;
            sets::rewrite(statement.as_mut());
            distinct::rewrite(statement.as_mut());
            Ok(())
        }
        Statement::Explain(explain) => joins_in_time(&mut explain.statement),
        _ => Ok(()),
    }
}

fn reads(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(
            statement.as_ref(),
            SqlStatement::Query(_)
                | SqlStatement::ShowTables { .. }
                | SqlStatement::ShowColumns { .. }
                | SqlStatement::ShowVariable { .. }
                | SqlStatement::ShowFunctions { .. }
                | SqlStatement::ExplainTable { .. }
                | SqlStatement::Explain { .. }
        ),
        Statement::Explain(explain) => reads(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

/// First words of statements that write, or that change what others see.
const WRITING: &[&str] = &[
    "ALTER", "ANALYZE", "ATTACH", "CLUSTER", "COMMENT", "COPY", "CREATE", "DELETE", "DENY", "DETACH", "DROP", "EXPORT",
    "GRANT", "IMPORT", "INSERT", "INSTALL", "LOAD", "MERGE", "MSCK", "OPTIMIZE", "PUT", "REFRESH", "REINDEX", "REMOVE",
    "RENAME", "REPAIR", "REPLACE", "RESTORE", "REVOKE", "RM", "TRUNCATE", "UNDROP", "UNLOAD", "UPDATE", "UPSERT",
    "VACUUM",
];
/// First words of other SQL statements that are not served.
const FOREIGN: &[&str] = &[
    "ABORT",
    "ASSERT",
    "BEGIN",
    "CACHE",
    "CALL",
    "CASE",
    "CHECKPOINT",
    "CLOSE",
    "COMMIT",
    "DEALLOCATE",
    "DECLARE",
    "DISCARD",
    "DO",
    "END",
    "EXEC",
    "EXECUTE",
    "FETCH",
    "FLUSH",
    "GET",
    "HELP",
    "IF",
    "KILL",
    "LIST",
    "LISTEN",
    "LOCK",
    "LS",
    "MOVE",
    "NOTIFY",
    "OPEN",
    "PRAGMA",
    "PREPARE",
    "PRINT",
    "RAISE",
    "RAISERROR",
    "RELEASE",
    "REPLAY",
    "RESET",
    "RETURN",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "SHUTDOWN",
    "START",
    "STOP",
    "THROW",
    "UNCACHE",
    "UNLISTEN",
    "UNLOCK",
    "USE",
    "WAITFOR",
    "WHILE",
];

/// The error for a statement whose first word is one of these; `None` for others.
fn refusal(tokens: &[TokenWithSpan], span: Span) -> Option<Diagnostic> {
    let mut cursor = Cursor::new(tokens);
    if cursor.eat(&["EXPLAIN"]) {
        while cursor.eat(&["ANALYZE"]) || cursor.eat(&["VERBOSE"]) {}
    }
    let word = cursor.peek_word()?.to_ascii_uppercase();
    if WRITING.contains(&word.as_str()) {
        return Some(writes(span));
    }
    FOREIGN.contains(&word.as_str()).then(|| {
        Diagnostic::new(span, format!("`{word}` is not supported"))
            .with_state(SqlState::UNSUPPORTED)
            .with_detail("A query stands by itself: there are no transactions, settings or procedures.")
            .with_hint("Send SELECT, SHOW, DESCRIBE or EXPLAIN.")
    })
}

/// The error `found`, with the SQLSTATE of a valid statement that is not served.
pub fn not_served(found: Diagnostic, tokens: &[TokenWithSpan], span: Span) -> Diagnostic {
    match refusal(tokens, span) {
        // The error found is more specific.
        Some(refused) if found.state == Some(SqlState::UNSUPPORTED) => Diagnostic { state: refused.state, ..found },
        Some(refused) => refused,
        None => found,
    }
}

/// The error of a statement that writes.
pub fn read_only() -> Error {
    let Diagnostic { message, detail, hint, .. } = writes(Span::default());
    let error = Error::sql(message).with_state(SqlState::READ_ONLY);
    error.with_detail(detail.unwrap_or_default()).with_hint(hint.unwrap_or_default())
}

/// The same at a position.
pub fn writes(span: Span) -> Diagnostic {
    Diagnostic::new(span, "only queries are served")
        .with_state(SqlState::READ_ONLY)
        .with_detail("The server reads tables and never writes them.")
        .with_hint("Tables are written by pipelines: `weir run`.")
}

fn number_placeholders(tokens: Vec<TokenWithSpan>) -> Parsed<Vec<TokenWithSpan>> {
    let mut numbered = Vec::with_capacity(tokens.len());
    let (mut marks, mut dollars) = (0, 0);
    let mut last = Span::default();
    for TokenWithSpan { token, span } in tokens {
        let (is_mark, rest) = match &token {
            Token::Whitespace(_) => continue,
            Token::Question => (true, None),
            Token::QuestionMarkDash => (true, Some(Token::Minus)),
            Token::Placeholder(name) if name == "?" => (true, None),
            Token::Placeholder(_) => {
                dollars += 1;
                (false, None)
            }
            _ => (false, None),
        };
        if is_mark || matches!(token, Token::Placeholder(_)) {
            last = span.into();
        }
        if is_mark {
            marks += 1;
            numbered.push(TokenWithSpan { token: Token::Placeholder(format!("${marks}")), span });
            numbered.extend(rest.map(|token| TokenWithSpan { token, span }));
        } else {
            numbered.push(TokenWithSpan { token, span });
        }
    }
    if marks > 0 && dollars > 0 {
        let error = Diagnostic::new(last, "parameters are written both `?` and `$1`");
        return Err(error.with_hint("Use one of the two forms."));
    }
    Ok(numbered)
}

fn name_versions(tokens: Vec<TokenWithSpan>) -> Parsed<Vec<TokenWithSpan>> {
    let mut named: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter();
    while let Some(current) = rest.next() {
        let table = named.last().and_then(|before| match &before.token {
            // A keyword before the clause is not a table's name; but many names are keywords somewhere.
            Token::Word(word)
                if word.quote_style.is_some()
                    || !matches!(
                        word.keyword,
                        Keyword::FROM | Keyword::JOIN | Keyword::AS | Keyword::LATERAL | Keyword::ON
                    ) =>
            {
                Some(word.clone())
            }
            _ => None,
        });
        let upcoming = rest.as_slice().get(..3).unwrap_or_default();
        let (Some(table), Some(version)) = (table, version_clause(&current.token, upcoming)?) else {
            named.push(current);
            continue;
        };
        rest.nth(2);
        if let Some(last) = named.last_mut() {
            let base = if table.quote_style.is_some() { table.value.clone() } else { table.value.to_lowercase() };
            last.token = word(&format!("{base}{}", suffix(version)), Some('"'));
        }
        let has_alias = rest.as_slice().first().is_some_and(|next| match &next.token {
            Token::Word(next) => matches!(next.keyword, Keyword::AS | Keyword::NoKeyword) || next.quote_style.is_some(),
            _ => false,
        });
        if !has_alias {
            let span = current.span;
            named.push(TokenWithSpan { token: Token::make_keyword("AS"), span });
            named.push(TokenWithSpan { token: Token::Word(table), span });
        }
    }
    Ok(named)
}

/// `VERSION AS OF 3` or `TIMESTAMP AS OF '…'`, beginning with `first`.
fn version_clause(first: &Token, rest: &[TokenWithSpan]) -> Parsed<Option<AsOf>> {
    let [as_word, of_word, value] = rest else { return Ok(None) };
    let (Token::Word(first), Token::Word(as_word), Token::Word(of_word)) = (first, &as_word.token, &of_word.token)
    else {
        return Ok(None);
    };
    if as_word.keyword != Keyword::AS || of_word.keyword != Keyword::OF {
        return Ok(None);
    }
    let span = value.span.into();
    match (first.keyword, &value.token) {
        (Keyword::VERSION, Token::Number(text, _)) => {
            text.parse().map(|version| Some(AsOf::Version(version))).map_err(|_| {
                Diagnostic::new(span, format!("`{text}` is not a version"))
                    .with_hint("Versions are whole numbers from 0.")
            })
        }
        (Keyword::TIMESTAMP, Token::SingleQuotedString(text)) => instant(text, span).map(Some),
        (Keyword::VERSION | Keyword::TIMESTAMP, _) => Err(Diagnostic::new(span, "version of a table is not a literal")
            .with_hint("Write `VERSION AS OF 3` or `TIMESTAMP AS OF '2026-01-31 12:00:00'`.")),
        _ => Ok(None),
    }
}

fn instant(text: &str, span: Span) -> Parsed<AsOf> {
    let parsed = DateTime::parse_from_rfc3339(text)
        .map(|instant| instant.with_timezone(&Utc))
        .ok()
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|naive| naive.and_utc()))
        .or_else(|| {
            let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            day.and_hms_opt(0, 0, 0).map(|naive| naive.and_utc())
        });
    parsed.map(AsOf::Timestamp).ok_or_else(|| {
        Diagnostic::new(span, format!("`{text}` is not a point in time"))
            .with_hint("Write RFC 3339, `2026-01-31 12:00:00` or `2026-01-31`; without a zone it is UTC.")
    })
}

fn suffix(version: AsOf) -> String {
    match version {
        AsOf::Newest => String::new(),
        AsOf::Version(version) => format!("@v{version}"),
        AsOf::Timestamp(instant) => format!("@t{}", instant.timestamp_micros()),
    }
}

/// Splits `t@v3`; a name without such a suffix means the newest version.
pub fn split_version(name: &str) -> (&str, AsOf) {
    let parsed = name.rsplit_once('@').and_then(|(table, version)| {
        let as_of = if let Some(version) = version.strip_prefix('v') {
            AsOf::Version(version.parse().ok()?)
        } else {
            AsOf::Timestamp(DateTime::from_timestamp_micros(version.strip_prefix('t')?.parse().ok()?)?)
        };
        Some((table, as_of))
    });
    parsed.unwrap_or((name, AsOf::Newest))
}

fn word(value: &str, quote_style: Option<char>) -> Token {
    Token::Word(Word { value: value.to_owned(), quote_style, keyword: Keyword::NoKeyword })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Position;

    fn parse(sql: &str) -> Parsed<Statement> {
        let start = Position { line: 1, column: 1 };
        super::parse(tokens(sql, Span { file: 0, start, end: start })?)
    }

    #[test]
    fn question_marks_are_numbered_in_order() {
        let statement = parse("SELECT ? + a FROM t WHERE b = ? AND c > ?-1").unwrap();
        assert_eq!(statement.to_string(), "SELECT $1 + a FROM t WHERE b = $2 AND c > $3 - 1");
    }

    #[test]
    fn question_marks_in_strings_are_left_alone() {
        assert_eq!(parse("SELECT '?' FROM t").unwrap().to_string(), "SELECT '?' FROM t");
    }

    #[test]
    fn both_forms_of_parameters_at_once_are_refused() {
        assert!(parse("SELECT ? + $1").unwrap_err().message.contains("both"));
    }

    #[test]
    fn a_version_becomes_part_of_the_name_and_the_table_keeps_its_alias() {
        let cases = [
            ("SELECT t.a FROM t VERSION AS OF 3 WHERE a = 1", "SELECT t.a FROM \"t@v3\" AS t WHERE a = 1"),
            ("SELECT x.a FROM public.T VERSION AS OF 3 x", "SELECT x.a FROM public.\"t@v3\" x"),
            ("SELECT a FROM t VERSION AS OF 3 AS x", "SELECT a FROM \"t@v3\" AS x"),
            ("SELECT a FROM t TIMESTAMP AS OF '1970-01-01 00:00:01'", "SELECT a FROM \"t@t1000000\" AS t"),
            (
                "SELECT * FROM t VERSION AS OF 1 JOIN t VERSION AS OF 2 AS u USING (a)",
                "SELECT * FROM \"t@v1\" AS t JOIN \"t@v2\" AS u USING(a)",
            ),
        ];
        for (sql, rewritten) in cases {
            assert_eq!(parse(sql).unwrap().to_string(), parse(rewritten).unwrap().to_string(), "{sql}");
        }
        assert_eq!(split_version("t@v3"), ("t", AsOf::Version(3)));
        assert_eq!(split_version("a@b"), ("a@b", AsOf::Newest));
    }

    #[test]
    fn whatever_writes_is_refused() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "DELETE FROM t",
            "UPDATE t SET a = 1",
            "CREATE TABLE t (a INT)",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "COPY t TO '/tmp/x.parquet'",
            "DROP TABLE t",
            "SET datafusion.execution.batch_size = 1",
            "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        ] {
            assert!(parse(sql).is_err(), "{sql}");
        }
        for sql in ["SELECT 1", "SHOW TABLES", "DESCRIBE t", "EXPLAIN SELECT 1", "WITH a AS (SELECT 1) SELECT * FROM a"]
        {
            parse(sql).unwrap();
        }
    }

    #[test]
    fn two_statements_are_refused() {
        assert_eq!(parse("SELECT 1; SELECT 2").unwrap_err().message, "more than one statement");
        parse("SELECT 1;").unwrap();
    }
}
