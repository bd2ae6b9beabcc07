//! Rows as JSON that sources read back as the same values: BINARY as base64, NaN and the infinities as texts.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow_json::writer::{LineDelimited, NullableEncoder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions, Writer, WriterBuilder};

/// Writes one object a line.
pub type LineWriter<W> = Writer<W, LineDelimited>;

/// A writer of lines into `out`; nulls are left out.
pub fn line_writer<W: Write>(out: W) -> LineWriter<W> {
    builder().build(out)
}

/// For writers with other options.
pub fn builder() -> WriterBuilder {
    WriterBuilder::new().with_encoder_factory(Arc::new(Readable))
}

/// For encoders of single columns.
pub fn encoder_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Readable))
}

/// Appends `bytes` in base64 (RFC 4648 section 4, with padding).
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= group.len() { digit } else { b'=' });
        }
    }
}

/// A double that JSON has no number for, as its text.
pub fn special_float(value: f64) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

#[derive(Debug)]
struct Readable;

impl EncoderFactory for Readable {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                Box::new(Bytes(move |row: usize| array.value(row)))
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                Box::new(Bytes(move |row: usize| array.value(row)))
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                Box::new(Bytes(move |row: usize| array.value(row)))
            }
            DataType::FixedSizeBinary(_) => {
                let array = array.as_fixed_size_binary();
                Box::new(Bytes(move |row: usize| array.value(row)))
            }
            DataType::Float64 => match floats(array.as_primitive::<Float64Type>()) {
                Some(encoder) => encoder,
                None => return Ok(None),
            },
            DataType::Float32 => match floats(array.as_primitive::<Float32Type>()) {
                Some(encoder) => encoder,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// `None` where all values are numbers of JSON.
fn floats<'a, T>(array: &'a PrimitiveArray<T>) -> Option<Box<dyn Encoder + 'a>>
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64> + serde::Serialize,
{
    let special = array.values().iter().any(|value| !Into::<f64>::into(*value).is_finite());
    special.then(|| Box::new(Floats(array)) as Box<dyn Encoder + 'a>)
}

struct Bytes<F>(F);

impl<'a, F: Fn(usize) -> &'a [u8]> Encoder for Bytes<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        base64((self.0)(row), out);
        out.push(b'"');
    }
}

struct Floats<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T> Encoder for Floats<'_, T>
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64> + serde::Serialize,
{
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.0.value(row);
        let written = match special_float(value.into()) {
            Some(text) => serde_json::to_writer(&mut *out, text),
            None => serde_json::to_writer(&mut *out, &value),
        };
        debug_assert!(written.is_ok(), "writing to memory does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (bytes, text) in vectors {
            let mut out = Vec::new();
            base64(bytes.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
