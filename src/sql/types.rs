//! SQL types to Arrow types, as docs/sql.md lists them with the aliases of PostgreSQL, Spark and Flink.
//!
//! Strings are `Utf8`; `TIMESTAMP` is an instant in microseconds UTC, `TIMESTAMP_NTZ` one without zone. The children of
//! lists and maps have Delta's names (`element`, `key_value`, `key`, `value`), so that a row needs no renaming before it is
//! written to a table.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed, is_keyword};
use super::lexer::tokenize;
use super::suggest::nearest;
use super::{Diagnostic, Span};

/// Maximum nesting of types.
const MAX_DEPTH: usize = 32;

/// Every type name, for "did you mean".
const NAMES: &[&str] = &[
    "BOOLEAN",
    "BOOL",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "LONG",
    "FLOAT",
    "REAL",
    "DOUBLE",
    "DECIMAL",
    "NUMERIC",
    "STRING",
    "VARCHAR",
    "TEXT",
    "CHAR",
    "BINARY",
    "BYTES",
    "VARBINARY",
    "BYTEA",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "TIMESTAMP_LTZ",
    "TIMESTAMP_NTZ",
    "INTERVAL",
    "ARRAY",
    "MAP",
    "STRUCT",
    "ROW",
];

/// The Arrow type of TIMESTAMP: microseconds UTC.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
}

/// Parses a type.
pub fn data_type(cursor: &mut Cursor<'_>) -> Parsed<DataType> {
    let mut reader = Reader { cursor, owed: false };
    let found = reader.read(0)?;
    if reader.owed {
        return Err(Diagnostic::new(reader.cursor.last_span(), "unexpected `>` after a type"));
    }
    Ok(found)
}

/// The Arrow type of a type in a query (`CAST(x AS TIMESTAMP)`), by the same rules as in a column list; `None` for types
/// that weir does not know.
pub fn from_ast(sql_type: &ast::DataType) -> Option<DataType> {
    let tokens = tokenize(&sql_type.to_string(), 0, &mut Vec::new());
    let mut cursor = Cursor::new(&tokens);
    data_type(&mut cursor).ok().filter(|_| cursor.at_end())
}

/// Makes DataFusion read the types in queries by [`from_ast`]; to be set in the session's builder.
#[derive(Debug)]
pub struct SqlTypes;

impl TypePlanner for SqlTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> datafusion::error::Result<Option<FieldRef>> {
        Ok(from_ast(sql_type).map(|data_type| Arc::new(Field::new("", data_type, true))))
    }
}

/// The SQL name of an Arrow type, for messages.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BINARY".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP_NTZ".to_owned(),
        DataType::Interval(_) => "INTERVAL".to_owned(),
        DataType::List(element) => format!("ARRAY<{}>", sql_name(element.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let parts: Vec<_> = fields.iter().map(|field| sql_name(field.data_type())).collect();
                format!("MAP<{}>", parts.join(", "))
            }
            other => format!("MAP<{}>", sql_name(other)),
        },
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", field.name(), sql_name(field.data_type())));
            format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Reads nested types. `>>` closes two of them: the second is `owed` until the outer one closes.
struct Reader<'r, 'a> {
    cursor: &'r mut Cursor<'a>,
    owed: bool,
}

impl Reader<'_, '_> {
    fn read(&mut self, depth: usize) -> Parsed<DataType> {
        let (start, span) = (self.cursor.position(), self.cursor.span());
        if depth > MAX_DEPTH {
            return Err(Diagnostic::new(span, "this type is nested too deeply"));
        }
        let Some(word) = self.cursor.peek_word() else { return Err(self.cursor.expected("a type")) };
        let upper = word.to_ascii_uppercase();
        self.cursor.advance();
        let mut found = match upper.as_str() {
            "ARRAY" | "LIST" => self.array(depth)?,
            "MAP" => self.map(depth)?,
            "STRUCT" | "ROW" => self.structure(depth)?,
            "DECIMAL" | "NUMERIC" | "DEC" => self.decimal()?,
            "TIMESTAMP" => self.timestamp()?,
            _ => self.simple(&upper, word, span)?,
        };
        while !self.owed && self.cursor.sees_symbol(&Token::LBracket) {
            self.cursor.advance();
            self.cursor.expect_symbol(&Token::RBracket)?;
            found = list_of(found);
        }
        debug_assert!(self.cursor.position() > start);
        Ok(found)
    }

    fn simple(&mut self, upper: &str, word: &str, span: Span) -> Parsed<DataType> {
        Ok(match upper {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" | "BYTE" | "INT1" => DataType::Int8,
            "SMALLINT" | "SHORT" | "INT2" => DataType::Int16,
            "INT" | "INTEGER" | "INT4" => DataType::Int32,
            "BIGINT" | "LONG" | "INT8" => DataType::Int64,
            "FLOAT" | "REAL" | "FLOAT4" => DataType::Float32,
            "DOUBLE" => {
                self.cursor.eat(&["PRECISION"]);
                DataType::Float64
            }
            "FLOAT8" => DataType::Float64,
            "STRING" | "TEXT" => DataType::Utf8,
            "VARCHAR" | "CHAR" | "CHARACTER" => {
                self.cursor.eat(&["VARYING"]);
                self.numbers()?;
                DataType::Utf8
            }
            "BINARY" | "BYTES" | "VARBINARY" | "BYTEA" | "BLOB" => {
                self.numbers()?;
                DataType::Binary
            }
            "DATE" => DataType::Date32,
            "TIMESTAMPTZ" | "TIMESTAMP_LTZ" => {
                self.precision()?;
                timestamp()
            }
            "TIMESTAMP_NTZ" => {
                self.precision()?;
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            "INTERVAL" => DataType::Interval(IntervalUnit::MonthDayNano),
            _ => return Err(unknown(upper, word, span)),
        })
    }

    /// `TIMESTAMP [(p)] [WITH [LOCAL] | WITHOUT TIME ZONE]`.
    fn timestamp(&mut self) -> Parsed<DataType> {
        self.precision()?;
        if self.cursor.eat(&["WITHOUT"]) {
            self.cursor.expect(&["TIME", "ZONE"])?;
            return Ok(DataType::Timestamp(TimeUnit::Microsecond, None));
        }
        if self.cursor.sees(&["WITH", "LOCAL"]) || self.cursor.sees(&["WITH", "TIME"]) {
            self.cursor.advance();
            self.cursor.eat(&["LOCAL"]);
            self.cursor.expect(&["TIME", "ZONE"])?;
        }
        Ok(timestamp())
    }

    /// `(p)` of a timestamp: at most microseconds.
    fn precision(&mut self) -> Parsed<()> {
        let span = self.cursor.span();
        match self.numbers()?.as_slice() {
            [] | [0..=6] => Ok(()),
            _ => Err(Diagnostic::new(span.to(self.cursor.last_span()), "timestamps have at most microseconds")
                .with_hint("Write a precision from 0 to 6, or none.")),
        }
    }

    fn decimal(&mut self) -> Parsed<DataType> {
        let start = self.cursor.span();
        let numbers = self.numbers()?;
        let (precision, scale) = match numbers.as_slice() {
            [] => (38, 10),
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => (0, 0),
        };
        let span = start.to(self.cursor.last_span());
        match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(p @ 1..=38), Ok(s)) if s as u8 <= p => Ok(DataType::Decimal128(p, s)),
            _ => Err(Diagnostic::new(span, "bad precision or scale")
                .with_hint("Write `DECIMAL(p, s)` with p from 1 to 38 and s from 0 to p.")),
        }
    }

    fn array(&mut self, depth: usize) -> Parsed<DataType> {
        self.cursor.expect_symbol(&Token::Lt)?;
        let element = self.read(depth + 1)?;
        self.close()?;
        Ok(list_of(element))
    }

    fn map(&mut self, depth: usize) -> Parsed<DataType> {
        self.cursor.expect_symbol(&Token::Lt)?;
        let key = self.read(depth + 1)?;
        self.cursor.expect_symbol(&Token::Comma)?;
        let value = self.read(depth + 1)?;
        self.close()?;
        Ok(map_of(key, value))
    }

    fn structure(&mut self, depth: usize) -> Parsed<DataType> {
        self.cursor.expect_symbol(&Token::Lt)?;
        let mut fields: Vec<Field> = Vec::new();
        loop {
            let name = self.cursor.name("a field name")?;
            if fields.iter().any(|field| *field.name() == name.value) {
                return Err(Diagnostic::new(name.span, format!("field `{}` is declared twice", name.value)));
            }
            self.cursor.eat_symbol(&Token::Colon);
            let data_type = self.read(depth + 1)?;
            let required = !self.owed && self.cursor.eat(&["NOT", "NULL"]);
            fields.push(Field::new(name.value, data_type, !required));
            if self.owed || !self.cursor.eat_symbol(&Token::Comma) {
                break;
            }
        }
        self.close()?;
        Ok(DataType::Struct(Fields::from(fields)))
    }

    /// A closing `>`.
    fn close(&mut self) -> Parsed<()> {
        if self.owed {
            self.owed = false;
            return Ok(());
        }
        if self.cursor.eat_symbol(&Token::ShiftRight) {
            self.owed = true;
            return Ok(());
        }
        self.cursor.expect_symbol(&Token::Gt).map(|_| ())
    }

    /// `(n, …)` if it comes next.
    fn numbers(&mut self) -> Parsed<Vec<u32>> {
        if !self.cursor.sees_symbol(&Token::LParen) {
            return Ok(Vec::new());
        }
        self.cursor.parenthesised(|cursor| match cursor.peek() {
            Some(Token::Number(digits, _)) => {
                let number = digits.parse().map_err(|_| cursor.expected("a whole number"))?;
                cursor.advance();
                Ok(number)
            }
            other if is_keyword(other, "MAX") => {
                cursor.advance();
                Ok(u32::MAX)
            }
            _ => Err(cursor.expected("a number")),
        })
    }
}

fn unknown(upper: &str, word: &str, span: Span) -> Diagnostic {
    let hint = match upper {
        "JSON" | "JSONB" | "UUID" | "VARIANT" => Some("Use `STRING`.".to_owned()),
        "DATETIME" | "DATETIME2" => Some("Use `TIMESTAMP`.".to_owned()),
        "NUMBER" | "MONEY" => Some("Use `DECIMAL(p, s)`.".to_owned()),
        "UINT" | "UBIGINT" | "UINTEGER" => Some("Use `BIGINT`: Delta has no unsigned numbers.".to_owned()),
        "TIME" => Some("Use `STRING` or `BIGINT`: Delta has no time of day.".to_owned()),
        _ => nearest(word, NAMES.iter().copied()).map(|name| format!("Did you mean `{name}`?")),
    };
    let known = "Types are BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), STRING, BINARY, DATE, \
                 TIMESTAMP, TIMESTAMP_NTZ, INTERVAL, ARRAY<…>, MAP<…, …> and STRUCT<…>.";
    let error = Diagnostic::new(span, format!("unknown type `{word}`"));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error.with_detail(known),
    }
}

/// A list of nullable elements.
fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

/// A map of nullable values.
pub fn map_of(key: DataType, value: DataType) -> DataType {
    let entries = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parsed<DataType> {
        let tokens = tokenize(text, 0, &mut Vec::new());
        let mut cursor = Cursor::new(&tokens);
        let found = data_type(&mut cursor)?;
        cursor.finish()?;
        Ok(found)
    }

    #[test]
    fn every_spelling_of_a_type_means_the_same() {
        for (text, name) in [
            ("string", "STRING"),
            ("varchar(20)", "STRING"),
            ("character varying(20)", "STRING"),
            ("TEXT", "STRING"),
            ("int", "INT"),
            ("INTEGER", "INT"),
            ("double precision", "DOUBLE"),
            ("real", "FLOAT"),
            ("bytes", "BINARY"),
            ("timestamp", "TIMESTAMP"),
            ("timestamp(3)", "TIMESTAMP"),
            ("timestamp with time zone", "TIMESTAMP"),
            ("timestamp(6) without time zone", "TIMESTAMP_NTZ"),
            ("timestamp_ntz", "TIMESTAMP_NTZ"),
            ("decimal(12,2)", "DECIMAL(12, 2)"),
            ("numeric", "DECIMAL(38, 10)"),
            (
                "map<string, array<struct<a int, b: map<string,bigint>>>>",
                "MAP<STRING, ARRAY<STRUCT<a INT, b MAP<STRING, BIGINT>>>>",
            ),
            ("array<array<int>>", "ARRAY<ARRAY<INT>>"),
            ("int[][]", "ARRAY<ARRAY<INT>>"),
            ("struct<a int not null>", "STRUCT<a INT>"),
        ] {
            let found = parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(sql_name(&found), name, "{text}");
        }
        assert_eq!(parse("timestamp"), Ok(timestamp()));
    }

    #[test]
    fn wrong_types_are_refused() {
        for text in [
            "decimal(39,2)",
            "decimal(5,6)",
            "array<int",
            "array<int>>",
            "timestamp(9)",
            "strnig",
            "map<int>",
            "struct<a int, a int>",
            "",
            "'x'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("strnig").unwrap_err().hint.as_deref(), Some("Did you mean `STRING`?"));
        assert!(parse(&"array<".repeat(5000)).is_err());
    }

    #[test]
    fn casts_in_queries_follow_the_same_rules() {
        use datafusion::sql::sqlparser::ast::Expr;
        let tokens = tokenize("cast(a as timestamp)", 0, &mut Vec::new());
        let Ok(Expr::Cast { data_type, .. }) = crate::sql::embedded::expression(&tokens) else { panic!("no cast") };
        assert_eq!(from_ast(&data_type), Some(timestamp()));
    }
}
