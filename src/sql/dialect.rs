//! The dialect of queries and expressions: sqlparser's generic one with table versions (`VERSION AS OF`, `TIMESTAMP AS OF`,
//! `FOR SYSTEM_TIME AS OF`) and without clauses of other engines (ClickHouse, MySQL), so that a typing error is not read as
//! such a clause. Operators bind as in PostgreSQL ([`super::precedence`]).

use std::any::TypeId;
use std::cell::Cell;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::precedence;

/// weir's SQL dialect, for one statement. The parser calls it at every step, so it can stop a statement that takes too many.
#[derive(Debug)]
pub struct WeirDialect {
    budget: ParseBudget,
}

impl WeirDialect {
    /// The dialect for a statement of this many tokens.
    pub fn for_tokens(tokens: usize) -> Self {
        Self { budget: ParseBudget::for_tokens(tokens) }
    }

    /// The remaining budget of the parser.
    pub fn budget(&self) -> &ParseBudget {
        &self.budget
    }
}

/// Answers `true` to these questions of sqlparser.
macro_rules! supports {
    ($($question:ident)*) => {
        $(fn $question(&self) -> bool {
            true
        })*
    };
}

impl Dialect for WeirDialect {
    /// sqlparser treats it as the generic dialect where it asks for a dialect by type.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        self.budget.step(parser).err().map(Err)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        if let Err(spent) = self.budget.step(parser) {
            return Some(Err(spent));
        }
        precedence::of_next(parser).map(Ok)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        precedence::value(precedence)
    }

    fn parse_infix(&self, parser: &mut Parser<'_>, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        precedence::infix(parser, left, precedence)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"' || ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '$' || ch == '_'
    }

    supports! {
        supports_table_versioning
        supports_unicode_string_literal
        supports_string_escape_constant
        supports_partition_by_after_order_by
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_left_associative_joins_without_parens
        supports_match_recognize
        supports_pipe_operator
        supports_window_function_null_treatment_arg
        supports_dictionary_syntax
        supports_window_clause_named_window_reference
        supports_select_wildcard_except
        supports_select_wildcard_exclude
        supports_select_wildcard_replace
        supports_select_wildcard_rename
        support_map_literal_syntax
        allow_extract_custom
        allow_extract_single_quotes
        supports_extract_comma_syntax
        supports_parens_around_table_factor
        supports_values_as_table_factor
        supports_from_first_select
        supports_projection_trailing_commas
        supports_try_convert
        supports_bitwise_shift_operators
        supports_named_fn_args_with_assignment_operator
        supports_struct_literal
        supports_nested_comments
        supports_array_typedef_with_brackets
        supports_filter_during_aggregation
        supports_interval_options
        supports_comma_separated_trim
    }
}

/// The number of steps that the parser may take over one statement. It tries alternatives one after the other, and after an
/// error deep inside brackets their number doubles with every bracket.
#[derive(Debug)]
pub struct ParseBudget {
    left: Cell<u64>,
    furthest: Cell<Location>,
}

/// Steps of a statement of any size, and for each of its tokens.
const STEPS: u64 = 50_000;
const STEPS_PER_TOKEN: u64 = 30;

impl ParseBudget {
    /// Ample for a statement of `tokens` tokens that is correct or nearly so.
    pub fn for_tokens(tokens: usize) -> Self {
        let left = STEPS + STEPS_PER_TOKEN * tokens as u64;
        Self { left: Cell::new(left), furthest: Cell::new(Location::empty()) }
    }

    /// Counts a step at the next token. Errors: none is left; sqlparser passes this kind of error on from everywhere.
    pub fn step(&self, parser: &Parser<'_>) -> Result<(), ParserError> {
        let at = parser.peek_token_ref().span.start;
        if at > self.furthest.get() {
            self.furthest.set(at);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        if left == 0 { Err(ParserError::RecursionLimitExceeded) } else { Ok(()) }
    }

    /// The furthest token that the parser reached, if the budget is spent: the mistake is there.
    pub fn spent_at(&self) -> Option<Location> {
        (self.left.get() == 0).then(|| self.furthest.get())
    }
}
