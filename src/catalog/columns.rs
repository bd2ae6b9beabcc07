//! Columns, watermarks and checks of sources, tables and sinks: types the origins of columns and looks up the columns that
//! expressions name.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{Expr, visit_expressions};

use super::definition::{CheckDef, ColumnDef, ColumnOrigin, Metadata, WatermarkDef};
use crate::sql::statement::{Check, Column, Name, Origin, WatermarkClause};
use crate::sql::suggest::{did_you_mean, list};
use crate::sql::types::{map_of, sql_name};
use crate::sql::{Diagnostic, Files, Span};

const METADATA: &[(&str, Metadata)] = &[
    ("key", Metadata::Key),
    ("partition", Metadata::Partition),
    ("offset", Metadata::Offset),
    ("timestamp", Metadata::Timestamp),
    ("headers", Metadata::Headers),
    ("topic", Metadata::Topic),
];

/// Columns with their origins. `available` is the metadata of the object's records.
pub fn columns(columns: &[Column], available: &[Metadata], errors: &mut Vec<Diagnostic>) -> Vec<ColumnDef> {
    let mut found = Vec::with_capacity(columns.len());
    for column in columns {
        let origin = match &column.origin {
            None => ColumnOrigin::Field(vec![column.name.value.clone()]),
            Some(Origin::Field(path)) => match path_of(path) {
                Ok(path) => ColumnOrigin::Field(path),
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            },
            Some(Origin::Metadata(key)) => match metadata(key, &column.data_type, available) {
                Ok(metadata) => ColumnOrigin::Metadata(metadata),
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            },
        };
        found.push(ColumnDef {
            name: column.name.value.clone(),
            data_type: column.data_type.clone(),
            nullable: column.nullable,
            origin,
            span: column.span,
        });
    }
    found
}

/// `'customer.id'` as a path.
fn path_of(path: &Name) -> Result<Vec<String>, Diagnostic> {
    let parts: Vec<String> = path.value.split('.').map(str::to_owned).collect();
    if parts.iter().any(String::is_empty) {
        return Err(
            Diagnostic::new(path.span, "this path has an empty part").with_hint("Write `'field'` or `'outer.inner'`.")
        );
    }
    Ok(parts)
}

fn metadata(key: &Name, data_type: &DataType, available: &[Metadata]) -> Result<Metadata, Diagnostic> {
    let names = || METADATA.iter().filter(|(_, metadata)| available.contains(metadata)).map(|(name, _)| *name);
    let known = METADATA.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key.value)).map(|(_, metadata)| *metadata);
    let Some(metadata) = known.filter(|metadata| available.contains(metadata)) else {
        let error = Diagnostic::new(key.span, format!("unknown metadata `{}`", key.value));
        if available.is_empty() {
            return Err(error.with_detail("This connector's rows carry no metadata."));
        }
        return Err(error
            .with_detail(format!("Known are {}.", list(names())))
            .or_hint(did_you_mean(&key.value, names())));
    };
    let types = types_of(metadata);
    if !types.contains(data_type) {
        let types = types.iter().map(sql_name).collect::<Vec<_>>().join(" or ");
        let message = format!("metadata `{}` is {types}, not {}", key.value, sql_name(data_type));
        return Err(Diagnostic::new(key.span, message).with_hint(format!("Declare the column as {types}.")));
    }
    Ok(metadata)
}

/// The types that a column of this metadata may have.
fn types_of(metadata: Metadata) -> Vec<DataType> {
    match metadata {
        Metadata::Key => vec![DataType::Binary, DataType::Utf8],
        Metadata::Partition => vec![DataType::Int32],
        Metadata::Offset => vec![DataType::Int64],
        Metadata::Timestamp => vec![crate::sql::types::timestamp()],
        Metadata::Headers => vec![map_of(DataType::Utf8, DataType::Binary)],
        Metadata::Topic => vec![DataType::Utf8],
    }
}

/// A watermark over one of `columns`, which must be a timestamp. Without columns (they will be read from a Delta table) it
/// is not checked.
pub fn watermark(
    watermark: &WatermarkClause,
    columns: &[ColumnDef],
    errors: &mut Vec<Diagnostic>,
) -> Option<WatermarkDef> {
    if columns.is_empty() {
        let (column, expression) = (watermark.column.value.clone(), watermark.expression.clone());
        return Some(WatermarkDef { column, expression, span: watermark.span });
    }
    let Some(column) = columns.iter().find(|column| column.name == watermark.column.value) else {
        errors.push(unknown(&watermark.column.value, watermark.column.span, columns));
        return None;
    };
    if !matches!(column.data_type, DataType::Timestamp(..)) {
        let message = format!("watermark column `{}` is {}, not TIMESTAMP", column.name, sql_name(&column.data_type));
        errors.push(Diagnostic::new(watermark.column.span, message));
        return None;
    }
    bound(&watermark.expression, columns, errors);
    let (column, expression) = (column.name.clone(), watermark.expression.clone());
    Some(WatermarkDef { column, expression, span: watermark.span })
}

/// Checks with names; `check_1`, `check_2` … if the SQL gives none.
pub fn checks(checks: &[Check], columns: &[ColumnDef], files: &Files, errors: &mut Vec<Diagnostic>) -> Vec<CheckDef> {
    let mut found: Vec<CheckDef> = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        bound(&check.expression, columns, errors);
        let name = check.name.as_ref().map_or_else(|| format!("check_{}", index + 1), |name| name.value.clone());
        if found.iter().any(|earlier| earlier.name == name) {
            let span = check.name.as_ref().map_or(check.span, |name| name.span);
            errors.push(Diagnostic::new(span, format!("check `{name}` is declared twice")));
        }
        let text = files.slice(check.span).to_owned();
        found.push(CheckDef { name, expression: check.expression.clone(), text });
    }
    found
}

/// The names as texts. Errors: one that is not a column.
pub fn known(names: &[Name], columns: &[ColumnDef], errors: &mut Vec<Diagnostic>) -> Vec<String> {
    for name in names {
        if !columns.is_empty() && !columns.iter().any(|column| column.name == name.value) {
            errors.push(unknown(&name.value, name.span, columns));
        }
    }
    names.iter().map(|name| name.value.clone()).collect()
}

/// Errors: the expression names a column that does not exist.
fn bound(expression: &Expr, columns: &[ColumnDef], errors: &mut Vec<Diagnostic>) {
    if columns.is_empty() {
        return;
    }
    let _ = visit_expressions(expression, |part| {
        if let Expr::Identifier(ident) = part {
            let name = if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() };
            if !columns.iter().any(|column| column.name == name) {
                errors.push(unknown(&name, ident.span.into(), columns));
            }
        }
        ControlFlow::<()>::Continue(())
    });
}

fn unknown(name: &str, span: Span, columns: &[ColumnDef]) -> Diagnostic {
    let names = || columns.iter().map(|column| column.name.as_str());
    Diagnostic::new(span, format!("unknown column `{name}`"))
        .with_detail(format!("Columns here: {}.", list(names())))
        .or_hint(did_you_mean(name, names()))
}
