//! Decoding of strings: JSON escapes and base64.

use super::fault::{Fault, Outcome};

const BAD_ESCAPE: Fault = Fault::Syntax("a string holds an unknown escape");
const LONE_SURROGATE: Fault = Fault::Syntax("a string holds half of a surrogate pair");

/// Checks the escapes of a scanned string without keeping its value.
#[inline(never)]
pub(super) fn check_escapes(text: &[u8]) -> Outcome {
    unescape(text, |_| ())
}

/// Appends the value of a scanned string that contains escapes. On an error `out` may have grown.
#[inline(never)]
pub(super) fn unescape_into(text: &[u8], out: &mut Vec<u8>) -> Outcome {
    unescape(text, |piece| out.extend_from_slice(piece))
}

fn unescape(text: &[u8], mut put: impl FnMut(&[u8])) -> Outcome {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        put(&rest[..at]);
        let escape = *rest.get(at + 1).ok_or(BAD_ESCAPE)?;
        rest = &rest[at + 2..];
        match escape {
            b'"' | b'\\' | b'/' => put(&[escape]),
            b'b' => put(b"\x08"),
            b'f' => put(b"\x0c"),
            b'n' => put(b"\n"),
            b'r' => put(b"\r"),
            b't' => put(b"\t"),
            b'u' => {
                let (character, after) = unicode(rest)?;
                put(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            _ => return Err(BAD_ESCAPE),
        }
    }
    put(rest);
    Ok(())
}

/// The character of the `\u` escape whose digits begin `text`, and the rest; a surrogate pair consumes two escapes.
fn unicode(text: &[u8]) -> Outcome<(char, &[u8])> {
    let high = hex(text)?;
    let rest = &text[4..];
    if !(0xD800..0xDC00).contains(&high) {
        return char::from_u32(high).map(|character| (character, rest)).ok_or(LONE_SURROGATE);
    }
    let low = rest.strip_prefix(b"\\u").ok_or(LONE_SURROGATE)?;
    let value = hex(low)?;
    if !(0xDC00..0xE000).contains(&value) {
        return Err(LONE_SURROGATE);
    }
    let joined = 0x10000 + ((high - 0xD800) << 10) + (value - 0xDC00);
    char::from_u32(joined).map(|character| (character, &low[4..])).ok_or(LONE_SURROGATE)
}

fn hex(text: &[u8]) -> Outcome<u32> {
    let digits = text.get(..4).ok_or(BAD_ESCAPE)?;
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = (*digit as char).to_digit(16).ok_or(BAD_ESCAPE)?;
        Ok(value << 4 | digit)
    })
}

/// Appends the bytes that `text` encodes in base64 (RFC 4648 §4; padding is optional). On an error `out` may have grown.
pub(super) fn base64_into(text: &[u8], out: &mut Vec<u8>) -> Outcome {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let body = &text[..text.len() - padding];
    let tail = body.len() % 4;
    if tail == 1 || padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return Err(Fault::BadText);
    }
    for group in body.chunks(4) {
        let mut bits = 0u32;
        for symbol in group {
            bits = bits << 6 | base64_digit(*symbol)?;
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        let used = group.len() * 6 / 8;
        if bytes[1 + used..].iter().any(|byte| *byte != 0) {
            return Err(Fault::BadText);
        }
        out.extend_from_slice(&bytes[1..=used]);
    }
    Ok(())
}

fn base64_digit(symbol: u8) -> Outcome<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return Err(Fault::BadText),
    };
    Ok(u32::from(value))
}
