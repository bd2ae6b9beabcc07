//! Functions whose results are bounded before they are made.
//!
//! What `repeat('x', 2000000000)` makes is known from its arguments. [`Bounding`] rewrites the calls of such functions
//! ([`super::growth`]) in a query's plan: each asks its query's [`Budget`] first. A constant, which lives in the plan and is copied with
//! it, may have [`MAX_CONSTANT_BYTES`]; what is made from rows is reserved in the memory pool for as long as it lives.

use std::hash::{Hash, Hasher};
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::Buffer;
use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
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
use crate::serve::interrupt::Interrupt;

/// Bytes of one constant that functions make.
const MAX_CONSTANT_BYTES: usize = 1 << 20;
/// Bytes of all constants of one query.
const MAX_CONSTANTS_BYTES: usize = 16 << 20;
/// Bytes that one call may make from a batch of rows: arrays of texts count their bytes in 32 bits.
const MAX_BATCH_BYTES: usize = 512 << 20;
/// Results below this come and go uncounted.
const COUNTED_BYTES: usize = 64 << 10;
/// Steps that one call may compute; about a second.
const MAX_STEPS: usize = 300_000_000;
/// Bytes of one value of a type whose width is given as a number.
const MAX_WIDTH: i64 = 1 << 20;

/// What the functions of one query may make.
#[derive(Debug)]
pub struct Budget {
    pool: Arc<dyn MemoryPool>,
    constants: MemoryReservation,
    interrupt: Interrupt,
}

impl Budget {
    /// Of a query whose memory comes from `pool`.
    pub fn new(pool: Arc<dyn MemoryPool>, interrupt: Interrupt) -> Self {
        let constants = MemoryConsumer::new("constants").register(&pool);
        Self { pool, constants, interrupt }
    }

    fn constant(&self, name: &str, bytes: usize) -> Result<()> {
        let is_too_much =
            bytes > MAX_CONSTANT_BYTES || self.constants.size().saturating_add(bytes) > MAX_CONSTANTS_BYTES;
        if is_too_much {
            let error = Error::sql(format!("`{name}` makes a constant that is too large"))
                .with_state(SqlState::LIMIT)
                .with_detail(format!(
                    "It can have {bytes} bytes; {MAX_CONSTANT_BYTES} are allowed, {MAX_CONSTANTS_BYTES} in a statement."
                ))
                .with_hint("Make it shorter, or from a column.");
            return Err(error.into());
        }
        self.constants.try_grow(bytes)
    }

    fn batch(&self, name: &str, bytes: usize) -> Result<MemoryReservation> {
        if bytes > MAX_BATCH_BYTES {
            let error = Error::sql(format!("`{name}` makes too much of a batch of rows"))
                .with_state(SqlState::LIMIT)
                .with_detail(format!("It can have {bytes} bytes; {MAX_BATCH_BYTES} are allowed."))
                .with_hint("Make the values shorter, or filter the rows before.");
            return Err(error.into());
        }
        let reserved = MemoryConsumer::new(name).register(&self.pool);
        reserved.try_grow(bytes)?;
        Ok(reserved)
    }
}

/// Rewrites the calls in one query's plan.
#[derive(Debug)]
pub struct Bounding(pub Arc<Budget>);

impl FunctionRewrite for Bounding {
    fn name(&self) -> &'static str {
        "bounding"
    }

    fn rewrite(&self, expr: Expr, schema: &DFSchema, _config: &ConfigOptions) -> Result<Transformed<Expr>> {
        let bounded = |function: Arc<ScalarUDF>, growth| {
            Arc::new(ScalarUDF::from(Bounded { function, growth, budget: Arc::clone(&self.0) }))
        };
        Ok(match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) => match growth::of(func.name()) {
                Some(growth) if !func.inner().is::<Bounded>() => {
                    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: bounded(func, growth), args }))
                }
                _ => Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
            },
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let types = [left.get_type(schema)?, right.get_type(schema)?];
                let operator =
                    ScalarUDF::from(Concatenation { signature: Signature::user_defined(Volatility::Immutable) });
                if types.iter().any(DataType::is_nested) || operator.inner().coerce_types(&types).is_err() {
                    let op = Operator::StringConcat;
                    return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
                }
                let func = bounded(Arc::new(operator), Growth::Together(1));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left, *right] }))
            }
            Expr::Cast(Cast { expr, field }) if is_shown(&expr, field.data_type(), schema)? => {
                Transformed::yes(shown(*expr, field.data_type(), &bounded))
            }
            Expr::TryCast(TryCast { expr, field }) if is_shown(&expr, field.data_type(), schema)? => {
                Transformed::yes(shown(*expr, field.data_type(), &bounded))
            }
            other => Transformed::no(other),
        })
    }
}

/// Whether a cast makes a text of a nested value.
fn is_shown(value: &Expr, to: &DataType, schema: &DFSchema) -> Result<bool> {
    let is_text = matches!(to, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    Ok(is_text && value.get_type(schema)?.is_nested())
}

fn shown(value: Expr, to: &DataType, bounded: &dyn Fn(Arc<ScalarUDF>, Growth) -> Arc<ScalarUDF>) -> Expr {
    let function = Arc::new(ScalarUDF::from(ShownAsText::new(to.clone())));
    bounded(function, Growth::Shown).call(vec![value])
}

/// A function that asks its query's budget before it computes.
#[derive(Debug)]
struct Bounded {
    function: Arc<ScalarUDF>,
    growth: Growth,
    budget: Arc<Budget>,
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
        self.budget.interrupt.check()?;
        let cost = self.growth.cost(&call)?;
        if cost.steps > MAX_STEPS {
            let error = Error::sql(format!("`{}` would compute for too long", self.name()))
                .with_state(SqlState::LIMIT)
                .with_hint("Compare shorter texts, or fewer at a time.");
            return Err(error.into());
        }
        if call.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_))) {
            // One result, however many rows it stands for.
            self.budget.constant(self.name(), cost.bytes / call.number_rows.max(1))?;
            return self.function.inner().invoke_with_args(call);
        }
        if cost.bytes < COUNTED_BYTES {
            return self.function.inner().invoke_with_args(call);
        }
        let reserved = self.budget.batch(self.name(), cost.bytes)?;
        let made = self.function.inner().invoke_with_args(call)?;
        Ok(match made {
            ColumnarValue::Array(array) => ColumnarValue::Array(held(&array, reserved)?),
            scalar @ ColumnarValue::Scalar(_) => scalar,
        })
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        // What others make of themselves would not be bounded any more.
        if self.growth == Growth::Typed {
            self.function.inner().simplify(args, info)
        } else {
            Ok(ExprSimplifyResult::Original(args))
        }
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

/// `left || right` of texts: null where either is.
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

/// The same array, which gives `reserved` back when the last of its buffers goes.
fn held(array: &ArrayRef, reserved: MemoryReservation) -> Result<ArrayRef> {
    let data = array.to_data();
    reserved.try_resize(data.get_buffer_memory_size())?;
    Ok(make_array(hold(data, Arc::new(reserved))))
}

/// Puts `reserved` behind the largest buffer of `data`.
fn hold(data: ArrayData, reserved: Arc<MemoryReservation>) -> ArrayData {
    let buffer = data.buffers().iter().enumerate().max_by_key(|(_, buffer)| buffer.len());
    let child = data.child_data().iter().enumerate().max_by_key(|(_, child)| child.get_buffer_memory_size());
    let own = buffer.map_or(0, |(_, buffer)| buffer.len());
    let changed = match (buffer, child) {
        (_, Some((index, child))) if child.get_buffer_memory_size() > own => {
            let mut children = data.child_data().to_vec();
            children[index] = hold(child.clone(), reserved);
            data.into_builder().child_data(children)
        }
        (Some((index, buffer)), _) => {
            let mut buffers = data.buffers().to_vec();
            buffers[index] = owned(buffer.clone(), reserved);
            data.into_builder().buffers(buffers)
        }
        _ => return data,
    };
    // SAFETY: the same bytes stand in the same places as in `data`, which was valid.
    unsafe { changed.build_unchecked() }
}

/// The bytes of a buffer with what counts them.
struct Owner {
    _buffer: Buffer,
    _reserved: Arc<MemoryReservation>,
}

// A buffer and a reservation are left as they are by whatever unwinds: neither is changed through an owner.
impl std::panic::RefUnwindSafe for Owner {}

fn owned(buffer: Buffer, reserved: Arc<MemoryReservation>) -> Buffer {
    let Some(start) = NonNull::new(buffer.as_ptr().cast_mut()) else { return buffer };
    let length = buffer.len();
    // SAFETY: the owner keeps the allocation that `start` and `length` lie in.
    unsafe { Buffer::from_custom_allocation(start, length, Arc::new(Owner { _buffer: buffer, _reserved: reserved })) }
}
