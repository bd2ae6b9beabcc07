//! VARIANT values as JSON text: `weir_variant_to_json(struct of metadata and value)`.
//!
//! The format is Parquet's (`VariantEncoding.md` in apache/parquet-format): a value is a byte of type, then the value; names of fields are
//! numbers that the metadata resolves. A value that breaks the format is an error of its row.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Lists and objects inside one another.
const MAX_DEPTH: usize = 100;

/// The function.
pub fn variant_to_json() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(VariantToJson { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct VariantToJson {
    signature: Signature,
}

impl ScalarUDFImpl for VariantToJson {
    fn name(&self) -> &'static str {
        "weir_variant_to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Array(as_json(&args.args[0].to_array(args.number_rows)?)?))
    }
}

/// VARIANT values as texts.
pub fn as_json(variants: &ArrayRef) -> Result<ArrayRef> {
    let Some(variants) = variants.as_struct_opt() else { return exec_err!("a VARIANT is no struct") };
    let part = |name: &str| {
        let bytes = variants.column_by_name(name).map(|column| arrow::compute::cast(column, &DataType::Binary));
        bytes.transpose()
    };
    let (Some(metadata), Some(values)) = (part("metadata")?, part("value")?) else {
        return exec_err!("a VARIANT has no metadata or no value");
    };
    let (metadata, values) = (metadata.as_binary::<i32>(), values.as_binary::<i32>());
    let mut texts = Vec::with_capacity(variants.len());
    for row in 0..variants.len() {
        if variants.is_null(row) || values.is_null(row) {
            texts.push(None);
            continue;
        }
        let mut text = String::new();
        let names = Names { bytes: metadata.value(row) };
        if names.write(values.value(row), 0, &mut text).is_none() {
            return exec_err!("a VARIANT cannot be read");
        }
        texts.push(Some(text));
    }
    Ok(Arc::new(StringArray::from(texts)))
}

/// A number of `width` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(1..=N)?.try_into().ok()
}

/// The metadata of a value: the names of fields.
struct Names<'a> {
    bytes: &'a [u8],
}

impl Names<'_> {
    fn name(&self, id: usize) -> Option<&str> {
        let width = usize::from(self.bytes.first()? >> 6) + 1;
        let count = number(self.bytes, 1, width)?;
        let offset = |at: usize| number(self.bytes, 1 + width + at * width, width);
        if id >= count {
            return None;
        }
        let start = 1 + width + (count + 1) * width;
        std::str::from_utf8(self.bytes.get(start + offset(id)?..start + offset(id + 1)?)?).ok()
    }

    /// Appends the value as JSON; `None` where it breaks the format.
    fn write(&self, value: &[u8], depth: usize, out: &mut String) -> Option<()> {
        let first = *value.first()?;
        let header = usize::from(first >> 2);
        match first & 3 {
            0 => primitive(header, value, out),
            1 => string(value.get(1..=header)?, out),
            _ if depth >= MAX_DEPTH => None,
            2 => {
                let (offsets, ids, large) = ((header & 3) + 1, (header >> 2 & 3) + 1, header >> 4 & 1 == 1);
                let width = if large { 4 } else { 1 };
                let count = number(value, 1, width)?;
                let (first_id, first_offset) = (1 + width, (1 + width).checked_add(count.checked_mul(ids)?)?);
                let start = first_offset.checked_add(count.checked_add(1)?.checked_mul(offsets)?)?;
                out.push('{');
                for at in 0..count {
                    if at > 0 {
                        out.push(',');
                    }
                    string(self.name(number(value, first_id + at * ids, ids)?)?.as_bytes(), out)?;
                    out.push(':');
                    let offset = number(value, first_offset + at * offsets, offsets)?;
                    self.write(value.get(start.checked_add(offset)?..)?, depth + 1, out)?;
                }
                out.push('}');
                Some(())
            }
            _ => {
                let (offsets, large) = ((header & 3) + 1, header >> 2 & 1 == 1);
                let width = if large { 4 } else { 1 };
                let count = number(value, 1, width)?;
                let start = (1 + width).checked_add(count.checked_add(1)?.checked_mul(offsets)?)?;
                out.push('[');
                for at in 0..count {
                    if at > 0 {
                        out.push(',');
                    }
                    let offset = number(value, 1 + width + at * offsets, offsets)?;
                    self.write(value.get(start.checked_add(offset)?..)?, depth + 1, out)?;
                }
                out.push(']');
                Some(())
            }
        }
    }
}

fn primitive(kind: usize, value: &[u8], out: &mut String) -> Option<()> {
    let quoted = |text: String, out: &mut String| string(text.as_bytes(), out);
    let micros = |value: &[u8]| timestamp_us_to_datetime(i64::from_le_bytes(fixed(value)?));
    match kind {
        0 => out.push_str("null"),
        1 => out.push_str("true"),
        2 => out.push_str("false"),
        3 => write!(out, "{}", i8::from_le_bytes(fixed(value)?)).ok()?,
        4 => write!(out, "{}", i16::from_le_bytes(fixed(value)?)).ok()?,
        5 => write!(out, "{}", i32::from_le_bytes(fixed(value)?)).ok()?,
        6 => write!(out, "{}", i64::from_le_bytes(fixed(value)?)).ok()?,
        7 => double(f64::from_le_bytes(fixed(value)?), out)?,
        8..=10 => {
            let (scale, digits) = (*value.get(1)?, value.get(1..)?);
            let digits = match kind {
                8 => i128::from(i32::from_le_bytes(fixed(digits)?)),
                9 => i128::from(i64::from_le_bytes(fixed(digits)?)),
                _ => i128::from_le_bytes(fixed(digits)?),
            };
            out.push_str(&decimal(digits, usize::from(scale)));
        }
        11 => quoted(date32_to_datetime(i32::from_le_bytes(fixed(value)?))?.format("%Y-%m-%d").to_string(), out)?,
        12 => quoted(micros(value)?.format("%Y-%m-%d %H:%M:%S%.f+00:00").to_string(), out)?,
        13 => quoted(micros(value)?.format("%Y-%m-%d %H:%M:%S%.f").to_string(), out)?,
        14 => double(f64::from(f32::from_le_bytes(fixed(value)?)), out)?,
        15 => {
            quoted(base64(value.get(5..5 + number(value, 1, 4)?)?), out)?;
        }
        16 => string(value.get(5..5 + number(value, 1, 4)?)?, out)?,
        20 => quoted(uuid::Uuid::from_bytes(fixed(value)?).to_string(), out)?,
        _ => return None,
    }
    Some(())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().chain([&0, &0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for at in 0..4 {
            text.push(if at > part.len() { '=' } else { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) });
        }
    }
    text
}

fn double(value: f64, out: &mut String) -> Option<()> {
    match serde_json::Number::from_f64(value) {
        Some(number) => write!(out, "{number}").ok(),
        None => string(value.to_string().as_bytes(), out),
    }
}

fn decimal(digits: i128, scale: usize) -> String {
    let (sign, digits) =
        (if digits < 0 { "-" } else { "" }, format!("{:0width$}", digits.unsigned_abs(), width = scale + 1));
    let (whole, part) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

fn string(bytes: &[u8], out: &mut String) -> Option<()> {
    out.push_str(&serde_json::to_string(std::str::from_utf8(bytes).ok()?).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &[u8], value: &[u8]) -> Option<String> {
        let mut text = String::new();
        Names { bytes: metadata }.write(value, 0, &mut text).map(|()| text)
    }

    #[test]
    fn values_of_every_kind_are_json() {
        let none: &[u8] = &[1, 0, 0];
        for (value, expected) in [
            (&[0b00][..], "null"),
            (&[0b0000_0100], "true"),
            (&[0b0000_1100, 0xfb], "-5"),
            (&[0b0001_0000, 0x39, 0x30], "12345"),
            (&[0b0010_0000, 2, 0x7b, 0, 0, 0], "1.23"),
            (&[0b0010_0000, 2, 0xfb, 0xff, 0xff, 0xff], "-0.05"),
            (&[0b0000_1001, b'h', b'i'], "\"hi\""),
            (&[0b0100_0000, 1, 0, 0, 0, b'"'], "\"\\\"\""),
            (&[0b0011_1100, 2, 0, 0, 0, 0xff, 0x68], "\"/2g=\""),
            (&[0b0010_1100, 0, 0, 0, 0], "\"1970-01-01\""),
            (&[0b11, 2, 0, 1, 3, 0b0000_0100, 0b0000_1100, 7], "[true,7]"),
        ] {
            assert_eq!(read(none, value).as_deref(), Some(expected), "{value:?}");
        }
    }

    #[test]
    fn fields_have_the_names_that_the_metadata_gives() {
        let metadata = [1, 2, 0, 1, 3, b'a', b'b', b'c'];
        assert_eq!(
            read(&metadata, &[0b10, 2, 0, 1, 0, 1, 2, 0b00, 0b1000]).as_deref(),
            Some("{\"a\":null,\"bc\":false}")
        );
        // A name that is not there, and a value that ends too early.
        assert_eq!(read(&metadata, &[0b10, 1, 7, 0, 1, 0]), None);
        assert_eq!(read(&metadata, &[0b0001_0100, 1, 2]), None);
    }
}
