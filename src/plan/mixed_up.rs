//! Arguments of models that are given by position and named like other features of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, visit_expressions,
};

use super::Dataflow;
use super::calls::called;
use super::share::relation_names;
use crate::catalog::{Catalog, PipelineDef};
use crate::model::ScoringUdf;

/// The features of models, in order, by the names of the models.
type Features = BTreeMap<String, Vec<String>>;

/// A sentence for each argument whose column or field has the name of a feature at another place: `f(n_items, amount)` for a model of
/// (amount, n_items). Arguments that are given by name are where they belong.
pub fn mixed_up_features(catalog: &Catalog, pipeline: &PipelineDef, dataflow: &Dataflow) -> Vec<String> {
    let features = features_of(dataflow);
    if features.is_empty() {
        return Vec::new();
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<&Query> = pipeline.inserts.iter().map(|insert| insert.query.as_ref()).collect();
    let mut seen = BTreeSet::new();
    while let Some(query) = open.pop() {
        in_query(query, &features, &mut found);
        let views = relation_names(query).into_iter().filter(|name| seen.insert(name.clone()));
        open.extend(views.filter_map(|name| catalog.views.get(&name)).map(|view| view.query.as_ref()));
    }
    found.into_iter().collect()
}

fn features_of(dataflow: &Dataflow) -> Features {
    let mut features = Features::new();
    let fragments = dataflow.fragments.iter().map(|fragment| &fragment.plan);
    for plan in fragments.chain(dataflow.branches.iter().map(|branch| &branch.plan)) {
        // The closures never fail.
        let _ = plan.apply(|node| {
            node.apply_expressions(&mut |expr| {
                expr.apply(|expr| {
                    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>()
                        && let Some(model) = call.fun().inner().downcast_ref::<ScoringUdf>()
                    {
                        let names = model.slot().current().features().to_vec();
                        features.insert(call.fun().name().to_owned(), names);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        });
    }
    features
}

fn in_query(query: &Query, features: &Features, found: &mut BTreeSet<String>) {
    let _: ControlFlow<()> = visit_expressions(query, |expr| {
        if let Expr::Function(call) = expr
            && let Some((model, features)) = called(call).and_then(|name| features.get_key_value(&name))
        {
            in_call(call, model, features, found);
        }
        ControlFlow::Continue(())
    });
}

fn in_call(call: &Function, model: &str, features: &[String], found: &mut BTreeSet<String>) {
    let FunctionArguments::List(list) = &call.args else { return };
    for (place, (argument, feature)) in list.args.iter().zip(features).enumerate() {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument else { continue };
        let Some(name) = named(argument).filter(|name| !name.eq_ignore_ascii_case(feature)) else { continue };
        if features.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            found.insert(format!(
                "argument {} of `{model}` is its feature `{feature}`, and `{name}`, which is given there, has the name of another feature: write `{feature} => …` to be sure",
                place + 1,
            ));
        }
    }
}

/// The name of the column, or field of one, that an argument is, cast or not.
fn named(argument: &Expr) -> Option<&str> {
    match argument {
        Expr::Identifier(name) => Some(&name.value),
        Expr::CompoundIdentifier(parts) => parts.last().map(|name| name.value.as_str()),
        Expr::CompoundFieldAccess { access_chain, .. } => match access_chain.last()? {
            AccessExpr::Dot(field) => named(field),
            AccessExpr::Subscript(_) => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => named(expr),
        _ => None,
    }
}
