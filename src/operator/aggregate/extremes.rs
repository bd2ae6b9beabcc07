//! MIN and MAX over rows with weights: each group's values in order, so that retracting the largest finds the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;

use super::call::Call;

/// One MIN or MAX.
pub(super) struct Extreme {
    argument: Arc<dyn PhysicalExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    maximum: bool,
    result: DataType,
    converter: RowConverter,
    /// Per group slot, encoded values and their weights.
    values: Vec<BTreeMap<Box<[u8]>, i64>>,
    bytes: usize,
}

impl Extreme {
    /// The call as a MIN or MAX, if it is one; its expressions are over `schema`.
    pub fn of(call: &Call, schema: &Schema) -> Result<Option<Self>> {
        let maximum = match call.native.as_ref().map(|function| function.fun().name()) {
            Some("max") => true,
            Some("min") => false,
            _ => return Ok(None),
        };
        let [argument] = call.arguments.as_slice() else { return Ok(None) };
        let field = SortField::new(argument.data_type(schema)?);
        if argument.data_type(schema)? != call.result || !RowConverter::supports_fields(std::slice::from_ref(&field)) {
            return Ok(None);
        }
        Ok(Some(Self {
            argument: Arc::clone(argument),
            filter: call.filter.clone(),
            maximum,
            result: call.result.clone(),
            converter: RowConverter::new(vec![field])?,
            values: Vec::new(),
            bytes: 0,
        }))
    }

    /// Counts rows, each in a group.
    pub fn add(&mut self, rows: &RecordBatch, groups: &[u32], weights: &Int64Array) -> Result<()> {
        let array = |expression: &Arc<dyn PhysicalExpr>| expression.evaluate(rows)?.into_array(rows.num_rows());
        let values = array(&self.argument)?;
        let filter = self.filter.as_ref().map(array).transpose()?;
        let filter = filter.as_ref().map(|filter| filter.as_boolean());
        let nulls = values.logical_nulls();
        let encoded = self.converter.convert_columns(&[values])?;
        for (row, group) in groups.iter().enumerate() {
            let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if !passes || nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            self.count(*group as usize, encoded.row(row).data(), weights.value(row));
        }
        Ok(())
    }

    fn count(&mut self, group: usize, value: &[u8], weight: i64) {
        if self.values.len() <= group {
            self.values.resize_with(group + 1, BTreeMap::new);
        }
        let values = &mut self.values[group];
        if let Some(known) = values.get_mut(value) {
            *known += weight;
            if *known == 0 {
                values.remove(value);
                self.bytes -= cost(value);
            }
        } else {
            values.insert(value.into(), weight);
            self.bytes += cost(value);
        }
    }

    /// The results of groups; null for groups without values.
    pub fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let mut found = Vec::new();
        let mut sources = Vec::with_capacity(groups.len());
        for group in groups {
            let value = self.values.get(*group as usize).and_then(|values| self.extreme(values));
            sources.push(value.map(|_| found.len() as u32));
            found.extend(value.map(|value| parser.parse(value)));
        }
        if found.is_empty() {
            return Ok(new_null_array(&self.result, groups.len()));
        }
        let values = self.converter.convert_rows(found)?;
        let values = values.first().ok_or_else(|| DataFusionError::Internal("no column was decoded".to_owned()))?;
        Ok(take(values, &UInt32Array::from(sources), None)?)
    }

    fn extreme<'a>(&self, values: &'a BTreeMap<Box<[u8]>, i64>) -> Option<&'a [u8]> {
        let mut present = values.iter().filter(|(_, weight)| **weight > 0).map(|(value, _)| value.as_ref());
        if self.maximum { present.next_back() } else { present.next() }
    }

    /// Drops the values of groups.
    pub fn drop_groups(&mut self, groups: &[u32]) {
        for group in groups {
            if let Some(values) = self.values.get_mut(*group as usize) {
                self.bytes -= std::mem::take(values).keys().map(|value| cost(value)).sum::<usize>();
            }
        }
    }

    /// Memory, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes + self.values.capacity() * size_of::<BTreeMap<Box<[u8]>, i64>>()
    }
}

/// Approximate memory of a value in a tree, with its share of the nodes.
fn cost(value: &[u8]) -> usize {
    value.len() + 40
}
