//! Functions of texts as Spark computes them.

use arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, Operator, cast, lit, when};
use datafusion::sql::sqlparser::ast::{Expr as Ast, TrimWhereField};

use super::convert::binary;
use super::{Read, Reader, said, text_of_literal, unknown};

impl Reader<'_> {
    pub(super) fn text_syntax(&self, ast: &Ast) -> Read<Expr> {
        match ast {
            Ast::Trim { trim_where, trim_what, expr, trim_characters: None } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut arguments = vec![self.text(&self.read(expr)?)?];
                if let Some(letters) = trim_what {
                    arguments.push(self.text(&self.read(letters)?)?);
                }
                self.call(name, arguments)
            }
            Ast::Substring { expr, substring_from: Some(from), substring_for, special: _, shorthand: _ } => {
                let length = substring_for.as_deref().map(|length| self.read(length)).transpose()?;
                self.substring(&self.read(expr)?, self.read(from)?, length)
            }
            Ast::Position { expr, r#in } => self.position(&self.read(r#in)?, &self.read(expr)?),
            _ => Err(unknown(ast)),
        }
    }

    pub(super) fn text_function(&self, name: &str, arguments: &[Expr]) -> Read<Option<Expr>> {
        let called = |name: &str| {
            let texts = arguments.iter().map(|argument| self.text(argument)).collect::<Read<Vec<_>>>()?;
            self.call(name, texts)
        };
        Ok(Some(match (name, arguments) {
            ("upper" | "ucase", [_]) => called("upper")?,
            ("lower" | "lcase", [_]) => called("lower")?,
            ("length" | "char_length" | "character_length" | "len", [_]) => called("character_length")?,
            ("trim", [_]) | ("btrim", [_] | [_, _]) => called("btrim")?,
            ("ltrim" | "rtrim" | "reverse" | "ascii" | "md5" | "bit_length" | "octet_length", [_])
            | ("translate", [_, _, _])
            | ("concat_ws", [_, _, ..]) => called(name)?,
            ("startswith", [_, _]) => called("starts_with")?,
            ("endswith", [_, _]) => called("ends_with")?,
            ("contains", [_, _]) => called("contains")?,
            ("concat", [_, ..]) => self.joined(arguments)?,
            ("instr", [text, part]) | ("locate" | "position", [part, text]) => self.position(text, part)?,
            ("substring" | "substr", [text, from]) => self.substring(text, from.clone(), None)?,
            ("substring" | "substr", [text, from, length]) => {
                self.substring(text, from.clone(), Some(length.clone()))?
            }
            ("left" | "right", [text, count]) => {
                let count = at_least_zero(cast(count.clone(), DataType::Int64))?;
                self.call(name, vec![self.text(text)?, count])?
            }
            ("repeat", [text, count]) => {
                self.call(name, vec![self.text(text)?, at_least_zero(cast(count.clone(), DataType::Int64))?])?
            }
            ("lpad" | "rpad", [text, length]) => self.padded(name, text, length, " ")?,
            ("lpad" | "rpad", [text, length, with]) => match text_of_literal(with) {
                Some(with) if !with.is_empty() => self.padded(name, text, length, with)?,
                _ => return Err(format!("`{name}` needs a literal to pad with")),
            },
            ("replace", [text, from, to]) => {
                let (text, from) = (self.text(text)?, self.text(from)?);
                let replaced = self.call("replace", vec![text.clone(), from.clone(), self.text(to)?])?;
                when(from.eq(lit("")), text).otherwise(replaced).map_err(said)?
            }
            ("regexp" | "regexp_like" | "rlike", [text, pattern]) => self.matches(text, pattern)?,
            ("regexp_replace", [text, pattern, with]) => {
                let with = text_of_literal(with).filter(|with| !with.contains(['$', '\\']));
                let with = with.ok_or("`regexp_replace` needs a literal without `$` and backslash to replace with")?;
                let arguments = vec![self.text(text)?, lit(pattern_of(pattern)?), lit(with), lit("g")];
                self.call("regexp_replace", arguments)?
            }
            _ => return Ok(None),
        }))
    }

    /// Texts one after the other; null if one of them is.
    pub(super) fn joined(&self, parts: &[Expr]) -> Read<Expr> {
        let mut parts = parts.iter().map(|part| self.text(part));
        let first = parts.next().ok_or("nothing is joined")??;
        parts.try_fold(first, |all, part| Ok(binary(all, Operator::StringConcat, part?)))
    }

    fn position(&self, text: &Expr, part: &Expr) -> Read<Expr> {
        self.call("strpos", vec![self.text(text)?, self.text(part)?])
    }

    fn padded(&self, name: &str, text: &Expr, length: &Expr, with: &str) -> Read<Expr> {
        self.call(name, vec![self.text(text)?, at_least_zero(cast(length.clone(), DataType::Int64))?, lit(with)])
    }

    /// Position 0 means 1, and a negative one counts from the end.
    fn substring(&self, text: &Expr, from: Expr, length: Option<Expr>) -> Read<Expr> {
        let (text, from) = (self.text(text)?, cast(from, DataType::Int64));
        let letters = cast(self.call("character_length", vec![text.clone()])?, DataType::Int64);
        let position = when(from.clone().gt(lit(0_i64)), from.clone())
            .when(from.clone().eq(lit(0_i64)), lit(1_i64))
            .otherwise(letters + from + lit(1_i64))
            .map_err(said)?;
        let mut arguments = vec![text, position];
        if let Some(length) = length {
            arguments.push(at_least_zero(cast(length, DataType::Int64))?);
        }
        self.call("substr", arguments)
    }

    /// `text RLIKE pattern`.
    pub(super) fn matches(&self, text: &Expr, pattern: &Expr) -> Read<Expr> {
        self.call("regexp_like", vec![self.text(text)?, lit(pattern_of(pattern)?)])
    }
}

/// A count, which is null where it is null.
fn at_least_zero(count: Expr) -> Read<Expr> {
    when(count.clone().lt(lit(0_i64)), lit(0_i64)).otherwise(count).map_err(said)
}

/// A literal pattern of Java's as one of Rust's: classes of letters are those of ASCII.
fn pattern_of(pattern: &Expr) -> Read<String> {
    let pattern = text_of_literal(pattern).ok_or("a pattern must be a literal")?;
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[a-zA-Z0-9_]"),
            Some('W') => out.push_str("[^a-zA-Z0-9_]"),
            Some('s') => out.push_str(r"[ \t\n\x0B\f\r]"),
            Some('S') => out.push_str(r"[^ \t\n\x0B\f\r]"),
            Some(other) if other.is_ascii_alphanumeric() && !"tnrf".contains(other) => {
                return Err(format!("the pattern `{pattern}` has `\\{other}`, which differs by engine"));
            }
            Some(other) => out.extend(['\\', other]),
            None => return Err(format!("the pattern `{pattern}` ends with a backslash")),
        }
    }
    Ok(out)
}
