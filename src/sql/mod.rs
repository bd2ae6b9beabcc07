//! Text to typed statements, with spans and every error at once.
//!
//! A file is tokenised once ([`lexer`]), cut into statements ([`split`]), and each statement is parsed on its own
//! ([`parse()`]). weir's own syntax is parsed here; queries and expressions inside are passed to sqlparser as tokens
//! ([`embedded`]), so every span in every syntax tree is a position in its file ([`place`]). Nothing is resolved here:
//! names, options and their values are left to the catalog.

pub mod place;
pub mod diagnostic;
pub mod suggest;
pub mod precedence;
pub mod dialect;
pub mod lexer;
pub mod limits;
pub mod split;
pub mod statement;
pub mod cursor;
pub mod normalize;
pub mod temporal;
pub mod sets;
pub mod distinct;
pub mod embedded;
pub mod accept;
pub mod formats;
pub mod literals;
pub mod relations;
pub mod weight;
pub mod types;
pub mod parse;
pub mod diagnose;
mod failure;
pub mod clause;

pub use diagnose::{diagnose, diagnose_all, find_name, missing_table, unsupported};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use failure::{Failure, STATEMENT};
pub use parse::{asked, parse};
pub use place::{Files, Position, SourceFile, Span};
pub use statement::{Statement, StatementKind};
