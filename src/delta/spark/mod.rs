//! Expressions that a table's log keeps, read as Spark reads them: CHECKs, invariants and generated columns are SQL of Spark, and all
//! writers must judge and compute a row alike.
//!
//! [`expression`] translates the syntax tree to an expression that DataFusion computes as Spark does (without ANSI mode, in UTC). It is a
//! list of what is known: each operator, cast and function is here because its meaning was looked up, and everything else is refused by
//! name, functions that may answer otherwise for the same row among them. Operators are in [`operator`], casts and what comparisons make of
//! two types in [`convert`], functions in [`text`], [`number`] and [`time`].

mod convert;
mod number;
mod operator;
mod text;
mod time;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Case, Expr, ExprSchemable, ScalarUDF, lit, when};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Subscript, Value,
};

use crate::evaluate::cause;
use crate::micros::{date_trunc_in_micros, to_char_in_micros};
use crate::sql::embedded::stored_expression;
use crate::sql::types::sql_name;

/// The expression that was read, or the reason for refusing it.
type Read<T> = Result<T, String>;

/// Expressions nested deeper are refused.
const MAX_DEPTH: usize = 64;

/// The expression over the columns of `schema` that says in DataFusion what `sql` says in Spark.
///
/// Errors: the first part whose meaning in Spark is not known here, as the end of a sentence.
pub fn expression(sql: &str, schema: &DFSchema) -> Read<Expr> {
    let ast = stored_expression(sql).map_err(|error| error.message)?;
    Reader::new(schema).read(&ast)
}

/// The value of a column of type `data_type` that is generated as `sql`. Errors: as [`expression`].
pub fn generated(sql: &str, data_type: &DataType, schema: &DFSchema) -> Read<Expr> {
    let ast = stored_expression(sql).map_err(|error| error.message)?;
    let reader = Reader::new(schema);
    reader.cast(reader.read(&ast)?, data_type)
}

/// The condition that `column` holds what it is generated as. Errors: as [`expression`].
pub fn is_generated_as(column: &str, sql: &str, schema: &DFSchema) -> Read<Expr> {
    let kind = schema.field_with_unqualified_name(column).map_err(said)?.data_type().clone();
    let value = generated(sql, &kind, schema)?;
    Reader::new(schema).same(Expr::Column(Column::from_name(column)), value)
}

/// Translates syntax trees.
struct Reader<'a> {
    schema: &'a DFSchema,
    functions: HashMap<String, Arc<ScalarUDF>>,
    depth: Cell<usize>,
}

impl<'a> Reader<'a> {
    fn new(schema: &'a DFSchema) -> Self {
        let nested = datafusion::functions_nested::all_default_nested_functions();
        let all = datafusion::functions::all_default_functions().into_iter().chain(nested);
        let in_micros = [date_trunc_in_micros(), to_char_in_micros()].map(Arc::new);
        let functions = all.chain(in_micros).map(|function| (function.name().to_owned(), function)).collect();
        Self { schema, functions, depth: Cell::new(0) }
    }

    fn read(&self, ast: &Ast) -> Read<Expr> {
        self.depth.set(self.depth.get() + 1);
        if self.depth.get() > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let read = self.part(ast);
        self.depth.set(self.depth.get() - 1);
        read
    }

    fn part(&self, ast: &Ast) -> Read<Expr> {
        match ast {
            Ast::Nested(inner) => self.read(inner),
            Ast::Identifier(name) => self.name(name),
            Ast::CompoundIdentifier(parts) => {
                let (first, fields) = parts.split_first().ok_or_else(|| unknown(ast))?;
                fields.iter().try_fold(self.name(first)?, |base, field| self.field(base, field))
            }
            Ast::CompoundFieldAccess { root, access_chain } => {
                access_chain.iter().try_fold(self.read(root)?, |base, access| self.access(base, access))
            }
            Ast::Value(value) => literal(&value.value).ok_or_else(|| unknown(ast)),
            Ast::Function(function) => self.function(function),
            Ast::Case { operand, conditions, else_result, .. } => {
                let operand = operand.as_deref().map(|operand| self.read(operand)).transpose()?;
                let mut tests = Vec::new();
                let mut results = Vec::new();
                for case in conditions {
                    let test = self.read(&case.condition)?;
                    tests.push(match &operand {
                        Some(operand) => self.equal(operand.clone(), test)?,
                        None => test,
                    });
                    results.push(self.read(&case.result)?);
                }
                results.push(else_result.as_deref().map_or(Ok(lit(ScalarValue::Null)), |other| self.read(other))?);
                let mut results = self.common(results)?;
                let other = results.pop().map(Box::new);
                let cases = tests.into_iter().map(Box::new).zip(results.into_iter().map(Box::new)).collect();
                Ok(Expr::Case(Case::new(None, cases, other)))
            }
            Ast::TypedString(_) | Ast::Interval(_) | Ast::Extract { .. } => self.time_syntax(ast),
            Ast::Trim { .. } | Ast::Substring { .. } | Ast::Position { .. } => self.text_syntax(ast),
            _ => self.operation(ast),
        }
    }

    /// A column, by its name in any case, as Spark finds it; between double quotes what is no column is a text.
    fn name(&self, name: &Ident) -> Read<Expr> {
        let fields = self.schema.fields();
        let exact = fields.iter().find(|field| *field.name() == name.value);
        let folded = || fields.iter().find(|field| field.name().eq_ignore_ascii_case(&name.value));
        match exact.or_else(|| if name.quote_style == Some('"') { None } else { folded() }) {
            Some(field) => Ok(Expr::Column(Column::from_name(field.name()))),
            None if name.quote_style == Some('"') => Ok(lit(unescaped(&name.value))),
            None => Err(format!("`{}` is not a column of the table", name.value)),
        }
    }

    fn field(&self, base: Expr, name: &Ident) -> Read<Expr> {
        let kind = self.kind(&base)?;
        let DataType::Struct(fields) = &kind else {
            return Err(format!("`{}` is a field of a {}, which has none", name.value, sql_name(&kind)));
        };
        let field = fields.iter().find(|field| field.name().eq_ignore_ascii_case(&name.value));
        let field = field.ok_or_else(|| format!("`{}` is not a field of {}", name.value, sql_name(&kind)))?;
        self.call("get_field", vec![base, lit(field.name().clone())])
    }

    fn access(&self, base: Expr, access: &AccessExpr) -> Read<Expr> {
        let index = match access {
            AccessExpr::Dot(Ast::Identifier(name)) => return self.field(base, name),
            AccessExpr::Subscript(Subscript::Index { index }) => self.read(index)?,
            other => return Err(format!("`{other}` has no known meaning in Spark")),
        };
        match self.kind(&base)? {
            // Spark counts from 0, and what is outside is null.
            DataType::List(_) => {
                let element = self.call("array_element", vec![base, index.clone() + lit(1_i64)])?;
                when(index.gt_eq(lit(0_i64)), element).end().map_err(said)
            }
            DataType::Map(..) => {
                let found = self.call("map_extract", vec![base, index])?;
                self.call("array_element", vec![found, lit(1_i64)])
            }
            kind => Err(format!("a {} has no elements", sql_name(&kind))),
        }
    }

    fn function(&self, function: &Function) -> Read<Expr> {
        let name = function.name.to_string().to_ascii_lowercase();
        let plain = function.filter.is_none()
            && function.over.is_none()
            && function.null_treatment.is_none()
            && function.within_group.is_empty()
            && matches!(function.parameters, FunctionArguments::None);
        let arguments = match &function.args {
            FunctionArguments::None => Vec::new(),
            FunctionArguments::List(list) if list.duplicate_treatment.is_none() && list.clauses.is_empty() => {
                let argument = |argument: &FunctionArg| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => self.read(expr),
                    other => Err(format!("`{other}` is no argument that `{name}` takes in Spark")),
                };
                list.args.iter().map(argument).collect::<Read<Vec<_>>>()?
            }
            _ => return Err(format!("`{function}` has no known meaning in Spark")),
        };
        let known = match plain {
            true => self.known(&name, &arguments)?,
            false => None,
        };
        known.ok_or_else(|| match arguments.len() {
            1 => format!("`{name}` with one argument is no function that every engine computes alike for a row"),
            count => {
                format!("`{name}` with {count} arguments is no function that every engine computes alike for a row")
            }
        })
    }

    fn known(&self, name: &str, arguments: &[Expr]) -> Read<Option<Expr>> {
        if let Some(found) = self.choice(name, arguments)? {
            return Ok(Some(found));
        }
        if let Some(found) = self.text_function(name, arguments)? {
            return Ok(Some(found));
        }
        match self.number_function(name, arguments)? {
            Some(found) => Ok(Some(found)),
            None => self.time_function(name, arguments),
        }
    }

    /// Functions that choose among their arguments.
    fn choice(&self, name: &str, arguments: &[Expr]) -> Read<Option<Expr>> {
        let all = arguments.to_vec();
        Ok(Some(match (name, arguments) {
            ("coalesce", [_, ..]) | ("nvl" | "ifnull", [_, _]) => self.call("coalesce", self.common(all)?)?,
            ("greatest" | "least", [_, _, ..]) => self.call(name, self.common(all)?)?,
            ("nullif", [a, b]) => chosen(self.equal(a.clone(), b.clone())?, vec![lit(ScalarValue::Null), a.clone()]),
            ("nvl2", [a, b, c]) => chosen(a.clone().is_not_null(), self.common(vec![b.clone(), c.clone()])?),
            ("if" | "iff", [a, b, c]) => chosen(a.clone(), self.common(vec![b.clone(), c.clone()])?),
            ("isnull", [a]) => a.clone().is_null(),
            ("isnotnull", [a]) => a.clone().is_not_null(),
            _ => return Ok(None),
        }))
    }

    /// A call of DataFusion's function.
    fn call(&self, name: &str, arguments: Vec<Expr>) -> Read<Expr> {
        let function = self.functions.get(name).ok_or_else(|| format!("`{name}` is not a function"))?;
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), arguments)))
    }

    fn kind(&self, expr: &Expr) -> Read<DataType> {
        expr.get_type(self.schema).map_err(said)
    }
}

/// The first of two results where `test` is true, else the second.
fn chosen(test: Expr, results: Vec<Expr>) -> Expr {
    let mut results = results.into_iter().map(Box::new);
    let first = results.next().map(|first| (Box::new(test), first));
    Expr::Case(Case::new(None, first.into_iter().collect(), results.next()))
}

/// A literal of Spark: numbers with a point are decimals, with an exponent doubles, and backslashes in texts escape.
fn literal(value: &Value) -> Option<Expr> {
    Some(match value {
        Value::Number(text, _) => lit(number(text)?),
        Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => lit(unescaped(text)),
        Value::Boolean(value) => lit(*value),
        Value::Null => lit(ScalarValue::Null),
        _ => return None,
    })
}

fn number(text: &str) -> Option<ScalarValue> {
    if text.contains(['e', 'E']) {
        return text.parse().ok().map(|value: f64| ScalarValue::Float64(Some(value)));
    }
    if let Ok(value) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(value)));
    }
    let scale = text.split_once('.').map_or(0, |(_, part)| part.len());
    let value: i128 = text.replace('.', "").parse().ok()?;
    let digits = value.to_string().len().max(scale).max(1);
    let (precision, scale) = (u8::try_from(digits).ok()?, i8::try_from(scale).ok()?);
    (digits <= 38).then_some(ScalarValue::Decimal128(Some(value), precision, scale))
}

/// A text's letters, as Spark's parser reads those between its quotes.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('0') => out.push('\0'),
            Some('b') => out.push('\u{8}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('Z') => out.push('\u{1a}'),
            // Escapes of LIKE's wildcards are kept for its pattern.
            Some(kept @ ('%' | '_')) => out.extend(['\\', kept]),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

/// The text of a literal.
fn text_of_literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
        _ => None,
    }
}

fn unknown(ast: &Ast) -> String {
    format!("`{ast}` has no meaning that every engine gives it")
}

/// DataFusion's words.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn said(error: DataFusionError) -> String {
    cause(&error)
}

#[cfg(test)]
mod tests;
