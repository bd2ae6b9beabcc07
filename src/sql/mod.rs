//! Text to typed statements, with spans and every error at once.
//!
//! A file is tokenised once ([`lexer`]), cut into statements ([`split`]), and each statement is parsed on its own
//! ([`parse()`]). weir's own syntax is parsed here; queries and expressions inside are passed to sqlparser as tokens
//! ([`embedded`]), so every span in every syntax tree is a position in its file ([`place`]). Nothing is resolved here:
//! names, options and their values are left to the catalog.

pub(crate) mod place;
pub(crate) mod diagnostic;
pub(crate) mod suggest;
pub(crate) mod precedence;
pub(crate) mod dialect;
pub(crate) mod lexer;
pub(crate) mod limits;
pub(crate) mod split;
pub(crate) mod statement;
pub(crate) mod cursor;
pub(crate) mod normalize;
pub(crate) mod temporal;
pub(crate) mod sets;
pub(crate) mod distinct;
pub(crate) mod embedded;
pub mod accept;
pub(crate) mod formats;
pub(crate) mod literals;
pub(crate) mod relations;
pub(crate) mod weight;
pub(crate) mod types;
pub(crate) mod parse;
pub(crate) mod diagnose;
mod failure;
pub(crate) mod clause;

pub(crate) use diagnose::{diagnose, find_name, missing_table, unsupported};
pub(crate) use diagnostic::{Diagnostic, Diagnostics};
pub(crate) use failure::{Failure, STATEMENT};
pub(crate) use parse::{asked, parse};
pub use place::SourceFile;
pub(crate) use place::{Files, Position, Span};
pub(crate) use statement::{Statement, StatementKind};
