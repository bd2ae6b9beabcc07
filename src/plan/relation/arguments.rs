//! The arguments of table functions: by position or by Flink's names, and what is said when they are wrong.

use datafusion::common::{DataFusionError, Diagnostic, Span as PlanSpan};
use datafusion::error::Result;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, ObjectNamePart, Query,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// The one length that may be zero or negative.
pub const OFFSET: &str = "offset";

/// The table functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Tumble,
    Hop,
    Session,
    Deduplicate,
}

impl Function {
    /// The function that is called by this name.
    pub fn named(name: &ObjectName) -> Option<Self> {
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
        let all = [Self::Tumble, Self::Hop, Self::Session, Self::Deduplicate];
        all.into_iter()
            .find(|function| ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case(function.name()))
    }

    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE",
            Self::Hop => "HOP",
            Self::Session => "SESSION",
            Self::Deduplicate => "DEDUPLICATE",
        }
    }

    /// The lengths that it takes, in order; all but the offset must be given.
    fn lengths(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["size", OFFSET],
            Self::Hop => &["slide", "size", OFFSET],
            Self::Session => &["gap"],
            Self::Deduplicate => &["within"],
        }
    }

    /// That it was not called as it must be.
    pub fn usage(self, span: Span) -> DataFusionError {
        let usage = match self {
            Self::Tumble => "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute' [, offset])",
            Self::Hop => "HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute', INTERVAL '1 hour' [, offset])",
            Self::Session => "SESSION(TABLE t [PARTITION BY a, b], DESCRIPTOR(ts), INTERVAL '5 minutes')",
            Self::Deduplicate => "DEDUPLICATE(TABLE t, KEY(a, b), WITHIN INTERVAL '24 hours')",
        };
        problem(span, &format!("wrong arguments of `{}`", self.name()), &format!("Write `{usage}`."))
    }
}

/// A planning error at its place in the SQL.
pub fn problem(span: Span, message: &str, hint: &str) -> DataFusionError {
    let diagnostic = Diagnostic::new_error(message, PlanSpan::try_from_sqlparser_span(span)).with_help(hint, None);
    DataFusionError::Plan(message.to_owned()).with_diagnostic(diagnostic)
}

/// Arguments of a table function's call.
pub struct Arguments {
    pub data: Box<Query>,
    pub time: Option<Expr>,
    pub keys: Vec<Expr>,
    /// In the order in which the function takes them, with what they are.
    pub lengths: Vec<(&'static str, Expr)>,
}

impl Arguments {
    /// Sorts the arguments of a call at `span`.
    pub fn of(function: Function, args: Vec<FunctionArg>, span: Span) -> Result<Self> {
        let usage = || function.usage(span);
        let mut data = None;
        let mut time = None;
        let mut keys = Vec::new();
        let mut lengths: Vec<Option<Expr>> = vec![None; function.lengths().len()];
        for (position, arg) in args.into_iter().enumerate() {
            let (name, value) = named(arg).ok_or_else(usage)?;
            match name.as_deref() {
                Some("data") => data = Some(value),
                Some("timecol") => time = Some(value),
                Some("key") => keys = listed(value),
                Some(name) => {
                    let index = function.lengths().iter().position(|length| *length == name);
                    *index.and_then(|index| lengths.get_mut(index)).ok_or_else(usage)? = Some(value);
                }
                None if position == 0 => data = Some(value),
                None if is_key(&value) => keys = listed(value),
                None if time.is_none() && is_column(&value, function) => time = Some(value),
                None => *lengths.iter_mut().find(|length| length.is_none()).ok_or_else(usage)? = Some(value),
            }
        }
        let needs_time = function != Function::Deduplicate;
        let takes_keys = matches!(function, Function::Session | Function::Deduplicate);
        let Some(Expr::Subquery(data)) = data else { return Err(usage()) };
        if (needs_time && time.is_none()) || (!takes_keys && !keys.is_empty()) {
            return Err(usage());
        }
        let mut given = Vec::new();
        for (what, length) in function.lengths().iter().zip(lengths) {
            match length {
                Some(length) => given.push((*what, length)),
                None if *what == OFFSET || function == Function::Deduplicate => {}
                None => return Err(usage()),
            }
        }
        Ok(Self { data, time, keys, lengths: given })
    }
}

/// An argument's name in lower case, if it has one, and its value.
fn named(arg: FunctionArg) -> Option<(Option<String>, Expr)> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some((None, value)),
        FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
            Some((Some(name.value.to_lowercase()), value))
        }
        _ => None,
    }
}

/// True for `KEY(a, b)`.
fn is_key(value: &Expr) -> bool {
    matches!(value, Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("key"))
}

/// True where the time may stand: for DEDUPLICATE, which need not be given one, only a column's name.
fn is_column(value: &Expr, function: Function) -> bool {
    function != Function::Deduplicate || matches!(value, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

/// The columns in `KEY(a, b)`, `(a, b)` or `a`.
fn listed(value: Expr) -> Vec<Expr> {
    match value {
        Expr::Function(function) if is_key(&Expr::Function(function.clone())) => match function.args {
            FunctionArguments::List(list) => {
                list.args.into_iter().filter_map(named).flat_map(|(_, value)| listed(value)).collect()
            }
            _ => Vec::new(),
        },
        Expr::Tuple(values) => values,
        Expr::Nested(value) => vec![*value],
        value => vec![value],
    }
}
