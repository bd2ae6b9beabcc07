//! Functions whose results are bounded before they are computed.
//!
//! The size of `repeat('x', 2000000000)` is known from its arguments. [`Bounding`] rewrites the calls of such functions
//! ([`super::growth`]) in a plan: each asks the plan's [`Budget`] first. A query's budget reserves memory; a pipeline's
//! ([`super::slice`]) has the rows cut into smaller slices.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Documentation, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::growth::{self, Growth};
use super::shown::ShownAsText;
use crate::error::{Error, SqlState};

/// Smaller results are not counted.
const COUNTED_BYTES: usize = 64 << 10;
/// Steps that one call may compute; about one second.
const MAX_STEPS: usize = 300_000_000;
/// Bytes of one value of a type whose width is given as a number (FixedSizeBinary, FixedSizeList).
const MAX_WIDTH: i64 = 1 << 20;

/// Decides how much the functions of one plan may produce.
pub trait Budget: Debug + Send + Sync {
    /// Called before each call. Errors: the reason to end the call.
    fn begin(&self) -> Result<()>;

    /// `name` is about to produce a constant, which lives as long as the plan.
    fn constant(&self, name: &str, bytes: usize) -> Result<()>;

    /// `name` is about to produce at most `bytes` bytes for `rows` rows. Returns the reservation, where memory is reserved.
    fn batch(&self, name: &str, bytes: usize, rows: usize) -> Result<Option<MemoryReservation>>;

    /// The result as it is passed on; at most `bytes` were expected.
    fn made(&self, result: ArrayRef, reserved: Option<MemoryReservation>, bytes: usize) -> Result<ArrayRef>;
}

/// Bytes that one call may produce for a batch of rows: string arrays count their bytes in 32 bits.
pub const MAX_BATCH_BYTES: usize = 512 << 20;

/// Limits of the constants that functions produce in one plan, bytes.
#[derive(Debug, Clone, Copy)]
pub struct MaxConstants {
    /// Of one constant.
    pub each: usize,
    /// Of all constants together.
    pub all: usize,
}

/// Error: a constant is too large, by itself or together with all others.
pub fn too_large_a_constant(name: &str, bytes: usize, allowed: MaxConstants) -> DataFusionError {
    let MaxConstants { each, all } = allowed;
    Error::sql(format!("`{name}` makes a constant that is too large"))
        .with_state(SqlState::LIMIT)
        .with_detail(format!("It can have {bytes} bytes; {each} are allowed, {all} in a statement."))
        .with_hint("Make it shorter, or from a column.")
        .into()
}

/// Error: one call produces too much.
pub fn too_large_a_batch(name: &str, bytes: usize) -> DataFusionError {
    Error::sql(format!("`{name}` makes too much of a batch of rows"))
        .with_state(SqlState::LIMIT)
        .with_detail(format!("It can have {bytes} bytes; {MAX_BATCH_BYTES} are allowed."))
        .with_hint("Make the values shorter, or filter the rows before.")
        .into()
}

/// Rewrites the calls of one plan.
#[derive(Debug, Clone)]
pub struct Bounding {
    budget: Arc<dyn Budget>,
    /// `||` and casts of nested values to strings become bounded functions, too.
    operators: bool,
}

impl Bounding {
    /// For a query.
    pub fn of_query(budget: Arc<dyn Budget>) -> Self {
        Self { budget, operators: true }
    }

    /// For a pipeline. State is addressed by the text of its plan, which must not change: operators are left as they are,
    /// and `||` is bounded in the physical plan ([`super::concat`]).
    pub fn of_pipeline(budget: Arc<dyn Budget>) -> Self {
        Self { budget, operators: false }
    }

    /// `true` for a function that asks a budget.
    pub fn is_bounded(function: &ScalarUDF) -> bool {
        function.inner().is::<Bounded>()
    }

    fn shown(&self, value: Expr, to: &DataType) -> Expr {
        self.bounded(Arc::new(ScalarUDF::from(ShownAsText::new(to.clone()))), Growth::Shown).call(vec![value])
    }

    fn bounded(&self, function: Arc<ScalarUDF>, growth: Growth) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::from(Bounded { function, growth, bounding: self.clone() }))
    }

    fn call(&self, call: ScalarFunction) -> Transformed<Expr> {
        let ScalarFunction { func, args } = call;
        match growth::of(func.name()) {
            Some(growth) if !Self::is_bounded(&func) => {
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: self.bounded(func, growth), args }))
            }
            _ => Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
        }
    }
}

impl FunctionRewrite for Bounding {
    fn name(&self) -> &'static str {
        "bounding"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _config: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarFunction(call) => self.call(call),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) if self.operators => {
                let types = [left.get_type(schema)?, right.get_type(schema)?];
                let operator =
                    ScalarUDF::from(Concatenation { signature: Signature::user_defined(Volatility::Immutable) });
                if types.iter().any(DataType::is_nested) || operator.inner().coerce_types(&types).is_err() {
                    let op = Operator::StringConcat;
                    return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
                }
                let func = self.bounded(Arc::new(operator), Growth::Together(1));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left, *right] }))
            }
            Expr::Cast(Cast { expr, field }) if self.operators && is_shown(&expr, field.data_type(), schema)? => {
                Transformed::yes(self.shown(*expr, field.data_type()))
            }
            Expr::TryCast(TryCast { expr, field }) if self.operators && is_shown(&expr, field.data_type(), schema)? => {
                Transformed::yes(self.shown(*expr, field.data_type()))
            }
            other => Transformed::no(other),
        })
    }
}

/// `true` if a cast turns a nested value into a string.
fn is_shown(value: &Expr, to: &DataType, schema: &DFSchema) -> Result<bool> {
    let is_text = matches!(to, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    Ok(is_text && value.get_type(schema)?.is_nested())
}

/// A function that asks the budget of its plan before it computes.
#[derive(Debug)]
struct Bounded {
    function: Arc<ScalarUDF>,
    growth: Growth,
    bounding: Bounding,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
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
        self.function.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.function.inner().return_field_from_args(args)?;
        if self.growth == Growth::Typed && width(field.data_type()) > MAX_WIDTH {
            let error = Error::sql(format!("a value of `{}` is too large", field.data_type()))
                .with_state(SqlState::LIMIT)
                .with_detail(format!("It has {} bytes; {MAX_WIDTH} are allowed.", width(field.data_type())));
            return Err(error.into());
        }
        Ok(field)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let budget = &self.bounding.budget;
        budget.begin()?;
        let cost = self.growth.cost(&call)?;
        if cost.steps > MAX_STEPS {
            let error = Error::sql(format!("`{}` would compute for too long", self.name()))
                .with_state(SqlState::LIMIT)
                .with_hint("Compare shorter texts, or fewer at a time.");
            return Err(error.into());
        }
        let rows = call.number_rows;
        if call.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_))) {
            // One result, however many rows it serves.
            budget.constant(self.name(), cost.bytes / rows.max(1))?;
            return self.function.inner().invoke_with_args(call);
        }
        if cost.bytes < COUNTED_BYTES {
            return self.function.inner().invoke_with_args(call);
        }
        let reserved = budget.batch(self.name(), cost.bytes, rows)?;
        Ok(match self.function.inner().invoke_with_args(call)? {
            ColumnarValue::Array(array) => ColumnarValue::Array(budget.made(array, reserved, cost.bytes)?),
            scalar @ ColumnarValue::Scalar(_) => scalar,
        })
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match self.function.inner().simplify(args, info)? {
            // Functions may simplify to calls of other functions, which need a bound as well.
            ExprSimplifyResult::Simplified(expr) => {
                let bounded = expr.transform_up(|expr| {
                    Ok(match expr {
                        Expr::ScalarFunction(call) => self.bounding.call(call),
                        other => Transformed::no(other),
                    })
                })?;
                ExprSimplifyResult::Simplified(bounded.data)
            }
            original @ ExprSimplifyResult::Original(_) => original,
        })
    }

    fn short_circuits(&self) -> bool {
        self.function.inner().short_circuits()
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.function.inner().evaluate_bounds(input)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.function.inner().preserves_lex_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.inner().documentation()
    }
}

/// `left || right` of strings: null if either is null.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Concatenation {
    signature: Signature,
}

impl ScalarUDFImpl for Concatenation {
    fn name(&self) -> &'static str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [left, right] => BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type(),
            _ => Err(DataFusionError::Internal("`||` has two sides".to_owned())),
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [left, right] => {
                let (left, right) = BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_input_types()?;
                Ok(vec![left, right])
            }
            _ => Err(DataFusionError::Internal("`||` has two sides".to_owned())),
        }
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = call.args.as_slice() else {
            return Err(DataFusionError::Internal("`||` has two sides".to_owned()));
        };
        let is_constant = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { call.number_rows };
        let joined = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
        if is_constant {
            return ScalarValue::try_from_array(&joined, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(joined))
    }
}

/// Bytes of one value of a type of fixed width.
fn width(data_type: &DataType) -> i64 {
    match data_type {
        DataType::FixedSizeBinary(bytes) => i64::from(*bytes),
        DataType::FixedSizeList(field, length) => i64::from(*length).saturating_mul(width(field.data_type()).max(1)),
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => width(field.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).fold(0, i64::saturating_add),
        DataType::Dictionary(_, values) => width(values),
        other => other.primitive_width().map_or(16, |width| width as i64),
    }
}
