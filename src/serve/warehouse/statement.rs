//! SQL text to one statement that only reads.
//!
//! Two forms that DataFusion's parser does not take are rewritten as tokens, so that positions in its errors stay
//! true: `?` becomes `$1`, `$2` …, and `t VERSION AS OF 3` or `t TIMESTAMP AS OF '…'` becomes the name `"t@v3"` or
//! `"t@t…"`, which [`split_version`] takes apart again when the name is looked up. Table functions and joins in time are
//! read as in pipelines ([`crate::sql`]).

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use crate::delta::AsOf;
use crate::error::{Error, Result};
use crate::serve::failure::query_error;
use crate::sql::dialect::WeirDialect;
use crate::sql::normalize::normalize;
use crate::sql::temporal::mark_joins;

/// Parses the one statement of `sql`; anything but a query, SHOW, DESCRIBE or EXPLAIN is refused.
pub fn parse(sql: &str) -> Result<Statement> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| query_error(DataFusionError::from(ParserError::from(error))))?;
    if let Some(query) = system_query(&tokens) {
        return parse(&query);
    }
    let tokens = normalize(&name_versions(number_placeholders(tokens)?)?);
    let mut parser = DFParserBuilder::new(tokens).with_dialect(&WeirDialect).build().map_err(query_error)?;
    let mut statements = parser.parse_statements().map_err(query_error)?;
    let mut statement =
        statements.pop_front().ok_or_else(|| Error::sql("there is no statement").with_hint("Try `SHOW TABLES`."))?;
    if !statements.is_empty() {
        return Err(Error::sql("more than one statement").with_hint("Send statements one by one."));
    }
    refuse_writes(&statement)?;
    joins_in_time(&mut statement)?;
    Ok(statement)
}

/// `SHOW STATE | PROGRESS | PIPELINES [FOR pipeline]` as a query of a system table.
fn system_query(tokens: &[TokenWithSpan]) -> Option<String> {
    let words: Vec<&Word> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::SemiColon))
        .map(|token| if let Token::Word(word) = &token.token { Some(word) } else { None })
        .collect::<Option<_>>()?;
    let is = |word: &Word, text: &str| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text);
    let [show, what, rest @ ..] = words.as_slice() else { return None };
    let table =
        ["state", "progress", "pipelines"].into_iter().find(|table| is(what, table)).filter(|_| is(show, "show"))?;
    match rest {
        [] => Some(format!("SELECT * FROM weir.{table}")),
        [keyword, pipeline] if is(keyword, "for") => {
            Some(format!("SELECT * FROM weir.{table} WHERE pipeline = '{}'", pipeline.value.replace('\'', "''")))
        }
        _ => None,
    }
}

fn joins_in_time(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(statement) => mark_joins(statement.as_mut()).map_err(|problem| {
            let error = Error::sql(problem.message);
            match problem.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }),
        Statement::Explain(explain) => joins_in_time(&mut explain.statement),
        _ => Ok(()),
    }
}

fn refuse_writes(statement: &Statement) -> Result<()> {
    let reads = match statement {
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
        Statement::Explain(explain) => return refuse_writes(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    };
    if reads { Ok(()) } else { Err(read_only()) }
}

/// What a statement that writes is answered with.
pub fn read_only() -> Error {
    Error::sql("only queries are served")
        .with_detail("The server reads tables and never writes them.")
        .with_hint("Tables are written by pipelines: `weir run`.")
}

fn number_placeholders(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let mut numbered = Vec::with_capacity(tokens.len());
    let (mut marks, mut dollars) = (0, 0);
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
        if is_mark {
            marks += 1;
            numbered.push(TokenWithSpan { token: Token::Placeholder(format!("${marks}")), span });
            numbered.extend(rest.map(|token| TokenWithSpan { token, span }));
        } else {
            numbered.push(TokenWithSpan { token, span });
        }
    }
    if marks > 0 && dollars > 0 {
        return Err(Error::sql("parameters are written both `?` and `$1`").with_hint("Use one of the two forms."));
    }
    Ok(numbered)
}

fn name_versions(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>> {
    let mut named: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut rest = tokens.into_iter().peekable();
    while let Some(current) = rest.next() {
        let table = named.last().and_then(|before| match &before.token {
            // What stands before a table's name is no name; many names are keywords somewhere.
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
        let upcoming = rest.clone().take(3).map(|token| token.token).collect::<Vec<_>>();
        let (Some(table), Some(version)) = (table, version_clause(&current.token, &upcoming)?) else {
            named.push(current);
            continue;
        };
        rest.nth(2);
        if let Some(last) = named.last_mut() {
            let base = if table.quote_style.is_some() { table.value.clone() } else { table.value.to_lowercase() };
            last.token = word(&format!("{base}{}", suffix(version)), Some('"'));
        }
        let has_alias = rest.peek().is_some_and(|next| match &next.token {
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

/// `VERSION AS OF 3` or `TIMESTAMP AS OF '…'`, begun by `first`.
fn version_clause(first: &Token, rest: &[Token]) -> Result<Option<AsOf>> {
    let (Token::Word(first), [Token::Word(as_word), Token::Word(of_word), value]) = (first, rest) else {
        return Ok(None);
    };
    if as_word.keyword != Keyword::AS || of_word.keyword != Keyword::OF {
        return Ok(None);
    }
    match (first.keyword, value) {
        (Keyword::VERSION, Token::Number(text, _)) => {
            text.parse().map(|version| Some(AsOf::Version(version))).map_err(|_| {
                Error::sql(format!("`{text}` is not a version")).with_hint("Versions are whole numbers from 0.")
            })
        }
        (Keyword::TIMESTAMP, Token::SingleQuotedString(text)) => instant(text).map(Some),
        (Keyword::VERSION | Keyword::TIMESTAMP, _) => Err(Error::sql("version of a table is not a literal")
            .with_hint("Write `VERSION AS OF 3` or `TIMESTAMP AS OF '2026-01-31 12:00:00'`.")),
        _ => Ok(None),
    }
}

fn instant(text: &str) -> Result<AsOf> {
    let parsed = DateTime::parse_from_rfc3339(text)
        .map(|instant| instant.with_timezone(&Utc))
        .ok()
        .or_else(|| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|naive| naive.and_utc()))
        .or_else(|| {
            let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            day.and_hms_opt(0, 0, 0).map(|naive| naive.and_utc())
        });
    parsed.map(AsOf::Timestamp).ok_or_else(|| {
        Error::sql(format!("`{text}` is not a point in time"))
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

/// Takes `t@v3` apart; a name without such an ending means the newest version.
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
        assert!(parse("SELECT ? + $1").unwrap_err().message().contains("both"));
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
        assert_eq!(parse("SELECT 1; SELECT 2").unwrap_err().message(), "more than one statement");
        parse("SELECT 1;").unwrap();
    }
}
