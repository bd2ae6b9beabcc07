//! Rows as JSON that sources read back as the same values: BINARY as base64, NaN and the infinities as strings; MAP keys
//! that are not strings as the text that CAST makes of them, nested ones as JSON.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, MapArray, PrimitiveArray, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow_json::writer::{LineDelimited, NullableEncoder, make_encoder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions, Writer, WriterBuilder};

/// Writes one object a line.
pub type LineWriter<W> = Writer<W, LineDelimited>;

/// A writer of JSON lines to `out`; nulls are left out.
pub fn line_writer<W: Write>(out: W) -> LineWriter<W> {
    builder().build(out)
}

/// Builder for writers with other options.
pub fn builder() -> WriterBuilder {
    WriterBuilder::new().with_encoder_factory(Arc::new(Readable))
}

/// Options for encoders of single columns.
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

/// The text of a double that is not a JSON number; `None` for others.
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
        options: &'a EncoderOptions,
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
            DataType::Map(entries, _) if !is_text(entries) => Box::new(Entries::new(array.as_map(), options)?),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// `true` if the keys of a MAP with these entries are strings, which Arrow writes itself.
fn is_text(entries: &FieldRef) -> bool {
    let DataType::Struct(fields) = entries.data_type() else { return true };
    fields
        .first()
        .is_none_or(|key| matches!(key.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
}

/// `None` if all values are JSON numbers.
fn floats<'a, T>(array: &'a PrimitiveArray<T>) -> Option<Box<dyn Encoder + 'a>>
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64> + serde::Serialize,
{
    let special = array.values().iter().any(|value| !Into::<f64>::into(*value).is_finite());
    special.then(|| Box::new(Floats(array)) as Box<dyn Encoder + 'a>)
}

/// The entries of MAPs.
struct Entries<'a> {
    offsets: &'a [i32],
    keys: StringArray,
    values: NullableEncoder<'a>,
}

impl<'a> Entries<'a> {
    /// Errors: keys that have no text.
    fn new(map: &'a MapArray, options: &'a EncoderOptions) -> Result<Self, ArrowError> {
        let keys: StringArray = match map.keys().as_binary_opt::<i32>() {
            Some(keys) => keys.iter().map(|key| key.map(base64_text)).collect(),
            None if map.keys().data_type().is_nested() => {
                let mut keys = make_encoder(&map.entries().fields()[0], map.keys().as_ref(), options)?;
                let mut text = |key: usize| {
                    let mut out = Vec::new();
                    keys.encode(key, &mut out);
                    String::from_utf8_lossy(&out).into_owned()
                };
                (0..map.keys().len()).map(|key| Some(text(key))).collect()
            }
            None => {
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(map.keys(), &DataType::Utf8, &strict)?.as_string::<i32>().clone()
            }
        };
        let values = make_encoder(&map.entries().fields()[1], map.values().as_ref(), options)?;
        Ok(Self { offsets: map.value_offsets(), keys, values })
    }
}

impl Encoder for Entries<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for entry in self.offsets[row] as usize..self.offsets[row + 1] as usize {
            if entry > self.offsets[row] as usize {
                out.push(b',');
            }
            let written = serde_json::to_writer(&mut *out, self.keys.value(entry));
            debug_assert!(written.is_ok(), "writing to memory does not fail");
            out.push(b':');
            match self.values.is_null(entry) {
                true => out.extend_from_slice(b"null"),
                false => self.values.encode(entry, out),
            }
        }
        out.push(b'}');
    }
}

fn base64_text(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64(bytes, &mut text);
    String::from_utf8_lossy(&text).into_owned()
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

    #[test]
    fn keys_of_maps_that_are_no_texts_are_written_as_texts() {
        use arrow::array::{Int64Builder, MapBuilder, RecordBatch, StringBuilder};
        let mut maps = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
        maps.keys().append_slice(&[1, -2]);
        maps.values().append_value("a\"");
        maps.values().append_null();
        maps.append(true).unwrap();
        maps.append(false).unwrap();
        maps.append(true).unwrap();
        let rows = RecordBatch::try_from_iter([("m", Arc::new(maps.finish()) as _)]).unwrap();
        let mut writer: LineWriter<Vec<u8>> = builder().with_explicit_nulls(true).build(Vec::new());
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        let text = String::from_utf8(writer.into_inner()).unwrap();
        assert_eq!(text, "{\"m\":{\"1\":\"a\\\"\",\"-2\":null}}\n{\"m\":null}\n{\"m\":{}}\n");
    }
}
