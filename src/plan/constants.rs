//! Arguments that DataFusion's functions take as constants only, and functions of types that no column has. Each row would fail.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::Error;

/// Functions and their arguments that must be constants.
const CONSTANT: [(&str, usize, &str); 5] = [
    ("encode", 1, "encoding"),
    ("decode", 1, "encoding"),
    ("digest", 1, "method"),
    ("date_bin", 0, "interval"),
    ("date_bin", 2, "origin"),
];

/// Functions of UNIONs.
const OF_UNIONS: [&str; 2] = ["union_tag", "union_extract"];

/// Errors: a call that fails for every row.
pub fn constants_are_constant(plan: &LogicalPlan) -> Result<()> {
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(call) = part {
                    checked(call)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map(drop)
}

fn checked(call: &ScalarFunction) -> Result<()> {
    let name = call.name();
    if OF_UNIONS.contains(&name) {
        return Err(Error::sql(format!("`{name}` takes a UNION, a type that no column has"))
            .with_hint("Take a field of a struct with `s.name`.")
            .into());
    }
    for (_, place, what) in CONSTANT.iter().filter(|(function, ..)| *function == name) {
        if let Some(argument) = call.args.get(*place).filter(|argument| !argument.column_refs().is_empty()) {
            return Err(Error::sql(format!("the {what} of `{name}` must be a constant, not `{argument}`"))
                .with_hint(format!("Write a CASE with one call of `{name}` for each value."))
                .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn an_argument_that_must_be_constant_is_no_column() {
        let context = SessionContext::new();
        for (sql, told) in [
            (
                "SELECT encode(s, e) FROM (VALUES ('a', 'hex')) t (s, e)",
                "the encoding of `encode` must be a constant, not `t.e`",
            ),
            (
                "SELECT 1 FROM (VALUES ('a')) t (s) WHERE decode(s, lower(s)) IS NULL",
                "the encoding of `decode` must be a constant",
            ),
            ("SELECT max(digest(s, s)) FROM (VALUES ('a')) t (s)", "the method of `digest` must be a constant"),
            ("SELECT encode(s, 'hex'), decode(s, 'he' || 'x') FROM (VALUES ('a')) t (s)", ""),
        ] {
            let plan = context.state().create_logical_plan(sql).await.unwrap();
            match constants_are_constant(&plan) {
                Ok(()) => assert_eq!(told, "", "{sql}"),
                Err(error) => assert!(!told.is_empty() && error.to_string().contains(told), "{sql}: {error}"),
            }
        }
    }
}
