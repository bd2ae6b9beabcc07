//! Bounds on the size of types, rows and conditions while a statement is planned.
//!
//! `SELECT struct(x, x) AS x FROM (…)` doubles a type with every level, `SELECT a.*, b.*` a row, `SELECT x + x AS x` a condition
//! that is pushed down. Each is measured where it is made: calls that build types ([`SizedFunction`]) before anything reads the type,
//! tables and subqueries ([`SizedRelations`]) before what reads them is planned, conditions ([`check_plan`]) before a plan is optimised.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::registry::FunctionRegistry;
use datafusion::functions::core::{named_struct, r#struct};
use datafusion::functions_nested::make_array::make_array;
use datafusion::functions_nested::map::map_udf;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannedRelation, PlannerResult, RawDictionaryExpr, RelationPlanner, RelationPlannerContext,
    RelationPlanning,
};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, JoinType, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};
use datafusion::sql::sqlparser::ast::TableFactor;

use super::zone::check_zones;
use crate::error::{Error, SqlState};
use crate::function::written_out;
use crate::sql::limits::{MAX_CONDITION, MAX_FIELDS, MAX_NESTING, MAX_STATEMENT_FIELDS};

/// Functions whose type is put together of their arguments' types, or read from a text.
const TYPE_BUILDERS: [&str; 6] = ["struct", "named_struct", "map", "arrays_zip", "arrow_cast", "arrow_try_cast"];

/// Bounds the types that functions of `state` make; for literals its planners begin with [`SizedLiterals`].
pub fn bound_types(state: &mut SessionState) -> Result<()> {
    for name in TYPE_BUILDERS {
        if let Some(function) = state.scalar_functions().get(name).cloned() {
            state.register_udf(sized(function))?;
        }
    }
    Ok(())
}

/// Bounds each table and subquery that `state` plans, and with `in_all` those of all its statements together. It plans one statement at
/// a time.
pub fn bound_relations(state: &mut SessionState, in_all: Option<usize>) -> Result<()> {
    let left = in_all.map(AtomicUsize::new);
    state.register_relation_planner(Arc::new(SizedRelations { is_passing: AtomicBool::new(false), left }))
}

/// Errors: the plan's rows are too wide, or a condition in it is too long once what it names is written out; a time zone that nobody knows.
pub fn check_plan(plan: &LogicalPlan) -> Result<()> {
    check_zones(plan)?;
    check_schema(plan.schema())?;
    column_sizes(plan, &Cell::new(0)).map(|_| ())
}

fn sized(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(SizedFunction { function }))
}

fn too_large(message: String) -> Error {
    Error::sql(message)
        .with_state(SqlState::TOO_COMPLEX)
        .with_hint("Each use of a nested column counts all its fields: select the fields that are needed.")
}

/// Fields of `kind`, itself among them, counted up to `most` of them; `None` = there are more, or they are nested too deep.
fn count_fields(kind: &DataType, most: usize, depth: usize) -> Option<usize> {
    if most == 0 || depth > MAX_NESTING {
        return None;
    }
    let inner = |field: &FieldRef| count_fields(field.data_type(), most - 1, depth + 1).map(|count| count + 1);
    match kind {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => inner(field),
        DataType::RunEndEncoded(_, field) => inner(field),
        DataType::Dictionary(_, values) => count_fields(values, most, depth + 1),
        DataType::Struct(fields) => count_all(fields.iter(), most - 1, depth + 1).map(|count| count + 1),
        DataType::Union(fields, _) => {
            count_all(fields.iter().map(|(_, field)| field), most - 1, depth + 1).map(|count| count + 1)
        }
        _ => Some(1),
    }
}

fn count_all<'a>(fields: impl Iterator<Item = &'a FieldRef>, most: usize, depth: usize) -> Option<usize> {
    fields.into_iter().try_fold(0, |count, field| {
        let more = count_fields(field.data_type(), most.saturating_sub(count), depth)?;
        Some(count + more)
    })
}

/// Fields of all columns. Errors: more than [`MAX_FIELDS`].
fn check_schema(schema: &DFSchema) -> Result<usize> {
    count_all(schema.fields().iter(), MAX_FIELDS, 0).ok_or_else(|| {
        let detail = format!(
            "All columns together have more than {MAX_FIELDS} fields, or are nested more than {MAX_NESTING} deep."
        );
        too_large("rows of this query are too wide".to_owned()).with_detail(detail).into()
    })
}

/// Plans literals of structs and maps with functions whose types are bounded.
#[derive(Debug)]
pub struct SizedLiterals;

impl ExprPlanner for SizedLiterals {
    fn plan_dictionary_literal(
        &self,
        literal: RawDictionaryExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        let args = literal.keys.into_iter().zip(literal.values).flat_map(|(key, value)| [key, value]).collect();
        Ok(PlannerResult::Planned(sized(named_struct()).call(args)))
    }

    fn plan_struct_literal(&self, args: Vec<Expr>, is_named: bool) -> Result<PlannerResult<Vec<Expr>>> {
        let function = if is_named { named_struct() } else { r#struct() };
        Ok(PlannerResult::Planned(sized(function).call(args)))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        if !args.len().is_multiple_of(2) {
            return Ok(PlannerResult::Original(args));
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (index, arg) in args.into_iter().enumerate() {
            if index % 2 == 0 { keys.push(arg) } else { values.push(arg) }
        }
        Ok(PlannerResult::Planned(sized(map_udf()).call(vec![make_array(keys), make_array(values)])))
    }
}

/// A function whose type has [`MAX_FIELDS`] at most.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SizedFunction {
    function: Arc<ScalarUDF>,
}

impl SizedFunction {
    fn check(&self, kind: &DataType) -> Result<()> {
        if count_fields(kind, MAX_FIELDS, 0).is_some() {
            return Ok(());
        }
        let detail = format!("It has more than {MAX_FIELDS} fields, or is nested more than {MAX_NESTING} deep.");
        Err(too_large(format!("the type that `{}` makes is too large", self.name())).with_detail(detail).into())
    }
}

impl ScalarUDFImpl for SizedFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.function.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.function.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let made = self.function.inner().return_type(types)?;
        self.check(&made)?;
        Ok(made)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let made = self.function.inner().return_field_from_args(args)?;
        self.check(made.data_type())?;
        Ok(made)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.function.inner().invoke_with_args(call)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.inner().simplify(args, info)
    }

    fn short_circuits(&self) -> bool {
        self.function.inner().short_circuits()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.inner().documentation()
    }
}

/// Measures each table and subquery in FROM before what reads it is planned.
#[derive(Debug)]
struct SizedRelations {
    /// The relation that comes next has been taken up and goes to the other planners.
    is_passing: AtomicBool,
    /// Fields that may still be read.
    left: Option<AtomicUsize>,
}

impl SizedRelations {
    fn take(&self, fields: usize) -> Result<()> {
        let Some(left) = &self.left else { return Ok(()) };
        let Some(rest) = left.load(Ordering::Relaxed).checked_sub(fields) else {
            let error = too_large("this statement reads too many columns".to_owned());
            let detail =
                format!("The columns of all its tables and subqueries have more than {MAX_STATEMENT_FIELDS} fields.");
            return Err(error.with_detail(detail).into());
        };
        left.store(rest, Ordering::Relaxed);
        Ok(())
    }
}

impl RelationPlanner for SizedRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        // The contents of its brackets are measured by themselves.
        let is_brackets = matches!(relation, TableFactor::NestedJoin { .. });
        if self.is_passing.swap(false, Ordering::Relaxed) || is_brackets {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        self.is_passing.store(true, Ordering::Relaxed);
        let planned = context.plan(relation);
        self.is_passing.store(false, Ordering::Relaxed);
        let plan = planned?;
        self.take(check_schema(plan.schema())?)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, None))))
    }
}

/// For each column of `plan` the size that its expression has once the columns that it names are replaced by theirs, down to tables.
///
/// Errors: a condition is larger than [`MAX_CONDITION`]; the optimiser would write it out to push it down.
fn column_sizes(plan: &LogicalPlan, grown: &Cell<usize>) -> Result<Vec<usize>> {
    let inputs: Vec<Vec<usize>> = match plan {
        LogicalPlan::TableScan(scan) => match scan.source.get_logical_plan() {
            Some(view) => vec![column_sizes(&view, grown)?],
            None => Vec::new(),
        },
        _ => plan.inputs().into_iter().map(|input| column_sizes(input, grown)).collect::<Result<_>>()?,
    };
    check_expressions(plan, grown)?;
    let width = plan.schema().fields().len();
    let first = || inputs.first().cloned().unwrap_or_default();
    let sizes = match plan {
        LogicalPlan::Projection(node) => {
            let sizes = Sizes::new(node.input.schema(), &first());
            node.expr.iter().map(|expr| sizes.of(expr)).collect()
        }
        LogicalPlan::Aggregate(node) => {
            let sizes = Sizes::new(node.input.schema(), &first());
            let of_keys: Vec<usize> = node.group_expr.iter().map(|expr| sizes.of(expr)).collect();
            match node.group_expr.as_slice() {
                [Expr::GroupingSet(_)] => vec![of_keys.into_iter().sum(); width],
                _ => of_keys,
            }
        }
        LogicalPlan::Unnest(node) => {
            let sizes = Sizes::new(node.input.schema(), &first());
            plan.schema().columns().into_iter().map(|column| sizes.of(&Expr::Column(column))).collect()
        }
        LogicalPlan::Filter(node) => {
            check_condition(Sizes::new(node.input.schema(), &first()).of(&node.predicate))?;
            first()
        }
        LogicalPlan::Join(node) => {
            let all: Vec<usize> = inputs.concat();
            if let (Some(filter), [left, right]) = (&node.filter, inputs.as_slice()) {
                let left = Sizes::new(node.left.schema(), left).of(filter);
                check_condition(left.saturating_add(Sizes::new(node.right.schema(), right).of(filter)))?;
            }
            match node.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    inputs.get(1).cloned().unwrap_or_default()
                }
                _ => all,
            }
        }
        LogicalPlan::Union(_) => {
            let largest = |column: usize| inputs.iter().filter_map(|input| input.get(column)).copied().max();
            (0..width).map(|column| largest(column).unwrap_or(1)).collect()
        }
        LogicalPlan::TableScan(node) => match (&node.projection, inputs.first()) {
            (Some(columns), Some(input)) => columns.iter().filter_map(|column| input.get(*column)).copied().collect(),
            _ => first(),
        },
        _ => first(),
    };
    // Columns that a node adds behind its input's are made there.
    Ok(sizes.into_iter().chain(std::iter::repeat(1)).take(width).collect())
}

/// Checks the subqueries in the expressions of one node, and by how much its expressions grow when they are written out.
fn check_expressions(plan: &LogicalPlan, grown: &Cell<usize>) -> Result<()> {
    for expr in plan.expressions() {
        let mut size: usize = 0;
        expr.apply(|inner| {
            match inner {
                Expr::ScalarSubquery(subquery) => drop(column_sizes(&subquery.subquery, grown)?),
                Expr::Exists(exists) => drop(column_sizes(&exists.subquery.subquery, grown)?),
                Expr::InSubquery(within) => drop(column_sizes(&within.subquery.subquery, grown)?),
                _ => {}
            }
            size += 1;
            Ok(TreeNodeRecursion::Continue)
        })?;
        grown.set(grown.get().saturating_add(written_out(&expr, &|_| 1).saturating_sub(size)));
    }
    if grown.get() <= MAX_CONDITION {
        return Ok(());
    }
    let message = "the functions that this query calls come to too much when they are written out".to_owned();
    let detail = format!(
        "They grow by more than {MAX_CONDITION} columns and operations: an argument counts each time that a SQL function's body names it, and twice in `coalesce`, `nvl` and `BETWEEN`."
    );
    let error = Error::sql(message).with_state(SqlState::TOO_COMPLEX).with_detail(detail);
    Err(error
        .with_hint("Call the functions one after the other, in subqueries or views, instead of one inside the other.")
        .into())
}

fn check_condition(size: usize) -> Result<()> {
    if size <= MAX_CONDITION {
        return Ok(());
    }
    let message = "a condition of this query is too long once it is written out".to_owned();
    let detail = format!(
        "It comes to more than {MAX_CONDITION} columns and operations, counting each use of a computed column as its expression."
    );
    let error = Error::sql(message).with_state(SqlState::TOO_COMPLEX).with_detail(detail);
    Err(error.with_hint("Write what is used many times to a table and read that.").into())
}

/// Sizes of the columns that an expression may name.
struct Sizes<'a> {
    known: HashMap<(Option<&'a TableReference>, &'a str), usize>,
    of_name: HashMap<&'a str, usize>,
}

impl<'a> Sizes<'a> {
    fn new(schema: &'a DFSchema, sizes: &[usize]) -> Self {
        let larger = || schema.iter().zip(sizes).filter(|(_, size)| **size > 1);
        let name = |field: &'a Arc<Field>| field.name().as_str();
        Self {
            known: larger().map(|((table, field), size)| ((table, name(field)), *size)).collect(),
            of_name: larger().map(|((_, field), size)| (name(field), *size)).collect(),
        }
    }

    /// Names and operations of `expr`, written out.
    fn of(&self, expr: &Expr) -> usize {
        written_out(expr, &|column| {
            let known = match &column.relation {
                Some(table) => self.known.get(&(Some(table), column.name.as_str())).copied(),
                None => self.of_name.get(column.name.as_str()).copied(),
            };
            known.unwrap_or(1)
        })
    }
}
