//! The relations of FROM.

use datafusion::sql::sqlparser::ast::{
    Join, JoinConstraint, JoinOperator, TableAlias, TableAliasColumnDef, TableFactor, TableFunctionArgs, TableVersion,
    TableWithJoins,
};

use super::{Checked, function, refuse, unless};

pub const SAMPLE: &str = "Choose rows by a key: `WHERE digest(…)`, or by chance in a query: `WHERE random() < 0.1`.";
pub const PIVOT: &str = "Write one aggregate for each column: `sum(x) FILTER (WHERE kind = 'a') AS a`.";
pub const UNPIVOT: &str = "Write `UNION ALL` of one SELECT for each column.";
const ORDINALITY: &str = "Number the elements: `unnest(range(1, array_length(a) + 1))` beside `unnest(a)`.";
const ONE_QUERY: &str = "Write it as `JOIN … ON …`, with `LATERAL` where the right side uses columns of the left.";
const ARRAY_JOIN: &str = "Write `unnest(…)` in the SELECT list.";

pub fn check(factor: &TableFactor) -> Checked {
    match factor {
        TableFactor::Table {
            name: _,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            if let Some(TableFunctionArgs { args, settings }) = args {
                unless(settings.is_some(), "SETTINGS", "Options are set in the configuration.")?;
                unless(version.is_some(), "AS OF", "Read the version inside: `TUMBLE(TABLE t VERSION AS OF 3, …)`.")?;
                args.iter().try_for_each(function::check_argument)?;
            }
            unless(!with_hints.is_empty(), "WITH", "Leave table hints out.")?;
            check_version(version.as_ref())?;
            unless(*with_ordinality, "WITH ORDINALITY", ORDINALITY)?;
            unless(!partitions.is_empty(), "PARTITION", "Filter on the partition columns: `WHERE …`.")?;
            unless(json_path.is_some(), "PATH", "Select the field: `t.a['b']`.")?;
            unless(sample.is_some(), "TABLESAMPLE", SAMPLE)?;
            unless(!index_hints.is_empty(), "INDEX", "Leave index hints out.")?;
            check_aliased(alias.as_ref())
        }
        TableFactor::Derived { lateral: _, subquery: _, alias, sample } => {
            unless(sample.is_some(), "TABLESAMPLE", SAMPLE)?;
            check_aliased(alias.as_ref())
        }
        TableFactor::TableFunction { expr: _, alias: _ } => refuse("TABLE", "Write the function itself: `FROM f(…)`."),
        TableFactor::Function { lateral: _, name: _, args, with_ordinality, alias } => {
            unless(*with_ordinality, "WITH ORDINALITY", ORDINALITY)?;
            args.iter().try_for_each(function::check_argument)?;
            check_aliased(alias.as_ref())
        }
        TableFactor::UNNEST { alias, array_exprs: _, with_offset, with_offset_alias, with_ordinality } => {
            unless(*with_offset || with_offset_alias.is_some(), "WITH OFFSET", ORDINALITY)?;
            unless(*with_ordinality, "WITH ORDINALITY", ORDINALITY)?;
            check_aliased(alias.as_ref())
        }
        TableFactor::NestedJoin { table_with_joins, alias } => {
            check_from(table_with_joins)?;
            check_aliased(alias.as_ref())
        }
        other => check_foreign(other),
    }
}

/// Tables of other engines.
fn check_foreign(factor: &TableFactor) -> Checked {
    match factor {
        TableFactor::Pivot {
            table: _,
            aggregate_functions: _,
            value_column: _,
            value_source: _,
            default_on_null: _,
            alias: _,
        } => refuse("PIVOT", PIVOT),
        TableFactor::Unpivot { table: _, value: _, name: _, columns: _, null_inclusion: _, alias: _ } => {
            refuse("UNPIVOT", UNPIVOT)
        }
        TableFactor::MatchRecognize {
            table: _,
            partition_by: _,
            order_by: _,
            measures: _,
            rows_per_match: _,
            after_match_skip: _,
            pattern: _,
            symbols: _,
            alias: _,
        } => refuse(
            "MATCH_RECOGNIZE",
            "Compare a row with those before it: `lag(…) OVER (PARTITION BY … ORDER BY ts)`, or join the stream to itself within a time.",
        ),
        TableFactor::JsonTable { json_expr: _, json_path: _, columns: _, alias: _ } => {
            refuse("JSON_TABLE", "Declare the fields as columns of the source: ARRAY, STRUCT, MAP.")
        }
        TableFactor::OpenJsonTable { json_expr: _, json_path: _, columns: _, alias: _ } => {
            refuse("OPENJSON", "Declare the fields as columns of the source: ARRAY, STRUCT, MAP.")
        }
        TableFactor::XmlTable { namespaces: _, row_expression: _, passing: _, columns: _, alias: _ } => {
            refuse("XMLTABLE", "XML is not read.")
        }
        TableFactor::SemanticView { name: _, dimensions: _, metrics: _, facts: _, where_clause: _, alias: _ } => {
            refuse("SEMANTIC_VIEW", "Write the query out.")
        }
        // `check` decides these.
        TableFactor::Table { .. }
        | TableFactor::Derived { .. }
        | TableFactor::TableFunction { .. }
        | TableFactor::Function { .. }
        | TableFactor::UNNEST { .. }
        | TableFactor::NestedJoin { .. } => Ok(()),
    }
}

fn check_version(version: Option<&TableVersion>) -> Checked {
    match version {
        // In a pipeline the planner refuses the last two.
        None
        | Some(TableVersion::ForSystemTimeAsOf(_) | TableVersion::TimestampAsOf(_) | TableVersion::VersionAsOf(_)) => {
            Ok(())
        }
        Some(TableVersion::Function(_)) => refuse("AT", "Write `t VERSION AS OF 3` or `t TIMESTAMP AS OF '…'`."),
        Some(TableVersion::Changes { changes: _, at: _, end: _ }) => {
            refuse("CHANGES", "Read changes with a source: `connector = 'delta', mode = 'changes'`.")
        }
    }
}

fn check_aliased(alias: Option<&TableAlias>) -> Checked {
    alias.map_or(Ok(()), check_alias)
}

pub fn check_alias(alias: &TableAlias) -> Checked {
    let TableAlias { explicit: _, name: _, columns, at } = alias;
    for TableAliasColumnDef { name: _, data_type } in columns {
        unless(data_type.is_some(), "AS", "A column's name in an alias has no type: write a CAST in the SELECT list.")?;
    }
    unless(at.is_some(), "AT", ORDINALITY)
}

pub fn check_from(from: &TableWithJoins) -> Checked {
    let TableWithJoins { relation: _, joins } = from;
    joins.iter().try_for_each(check_join)
}

pub fn check_join(join: &Join) -> Checked {
    let Join { relation: _, global, join_operator } = join;
    unless(*global, "GLOBAL", "Leave it out.")?;
    match join_operator {
        JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on)
        | JoinOperator::Right(on)
        | JoinOperator::RightOuter(on)
        | JoinOperator::FullOuter(on)
        | JoinOperator::LeftSemi(on)
        | JoinOperator::RightSemi(on)
        | JoinOperator::LeftAnti(on)
        | JoinOperator::RightAnti(on)
        | JoinOperator::AsOf { match_condition: _, constraint: on } => match on {
            JoinConstraint::On(_) | JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => Ok(()),
        },
        JoinOperator::CrossJoin(JoinConstraint::None) => Ok(()),
        JoinOperator::CrossJoin(JoinConstraint::On(_) | JoinConstraint::Using(_) | JoinConstraint::Natural) => {
            refuse("CROSS JOIN", "A join with a condition is `JOIN … ON …`.")
        }
        JoinOperator::Semi(_) => refuse("SEMI JOIN", "Write `LEFT SEMI JOIN` or `EXISTS (…)`."),
        JoinOperator::Anti(_) => refuse("ANTI JOIN", "Write `LEFT ANTI JOIN` or `NOT EXISTS (…)`."),
        JoinOperator::CrossApply => refuse("CROSS APPLY", ONE_QUERY),
        JoinOperator::OuterApply => refuse("OUTER APPLY", ONE_QUERY),
        JoinOperator::StraightJoin(_) => refuse("STRAIGHT_JOIN", "Write `JOIN … ON …`."),
        JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
            refuse("ARRAY JOIN", ARRAY_JOIN)
        }
    }
}
