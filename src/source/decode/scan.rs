//! A cursor over JSON text: whitespace, string ends, and validation of values that no column reads.
//!
//! The cursor has no end: the buffer is padded with [`PAD`] zero bytes, at which every scan stops, and the caller compares
//! [`Cursor::pos`] with the record's end afterwards. A truncated record may thus be read into the next one; the comparison
//! detects that, and the record is rolled back. This keeps bounds checks out of the hot path.

use super::fault::{Fault, MAX_VALUES, Outcome};
use super::number;

/// Zero bytes that must follow the last record.
pub(super) const PAD: usize = 64;

/// The maximum nesting of arrays and objects, as in serde_json.
const MAX_DEPTH: u8 = 128;

/// A position in padded JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    /// The text; its last [`PAD`] bytes are zero.
    pub(super) data: &'a [u8],
    /// The next byte.
    pub(super) pos: usize,
    depth: u8,
    /// The number of values that arrays, maps and structs may still have.
    room: u32,
}

/// The form of a scanned string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// The bytes between the quotes are its value: `[start, end)`.
    Plain(usize, usize),
    /// The bytes between the quotes contain escapes, not yet checked: `[start, end)`.
    Escaped(usize, usize),
}

impl<'a> Cursor<'a> {
    /// A cursor at `pos` of padded text.
    pub(super) fn new(data: &'a [u8], pos: usize) -> Self {
        debug_assert!(data.len() >= PAD && data[data.len() - PAD..].iter().all(|byte| *byte == 0));
        Self { data, pos, depth: 0, room: MAX_VALUES }
    }

    /// The byte at the cursor; 0 at the very end.
    #[inline(always)]
    pub(super) fn peek(&self) -> u8 {
        self.data.get(self.pos).copied().unwrap_or(0)
    }

    /// Moves past spaces, tabs and line ends.
    #[inline(always)]
    pub(super) fn skip_whitespace(&mut self) {
        if self.peek() <= b' ' {
            self.skip_whitespace_slowly();
        }
    }

    #[inline(never)]
    fn skip_whitespace_slowly(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.pos += 1;
        }
    }

    /// Enters an array or object whose opening bracket is at the cursor.
    #[inline]
    pub(super) fn enter(&mut self) -> Outcome {
        self.depth += 1;
        if self.depth >= MAX_DEPTH {
            return Err(Fault::Syntax("nested too deeply"));
        }
        self.pos += 1;
        self.skip_whitespace();
        Ok(())
    }

    /// Leaves the array or object whose closing bracket is at the cursor.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
        self.pos += 1;
    }

    /// Returns to an earlier position with the given depth.
    pub(super) fn rewind(&mut self, pos: usize, depth: u8) {
        self.pos = pos;
        self.depth = depth;
    }

    /// The number of open arrays and objects.
    pub(super) fn depth(&self) -> u8 {
        self.depth
    }

    /// Counts `count` more values inside an array, map or struct. Errors: more than a record may have.
    #[inline]
    pub(super) fn take_room(&mut self, count: u32) -> Outcome {
        self.room = self.room.checked_sub(count).ok_or(Fault::TooMany)?;
        Ok(())
    }

    /// Reads the string whose opening quote is at the cursor and moves past its closing quote.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Outcome<Text> {
        let start = self.pos + 1;
        let end = string_stop(self.data, start);
        if self.data.get(end) == Some(&b'"') {
            self.pos = end + 1;
            return Ok(Text::Plain(start, end));
        }
        self.escaped_string(start, end)
    }

    #[inline(never)]
    fn escaped_string(&mut self, start: usize, mut stop: usize) -> Outcome<Text> {
        loop {
            match self.data.get(stop) {
                Some(b'"') => {
                    self.pos = stop + 1;
                    return Ok(Text::Escaped(start, stop));
                }
                Some(b'\\') if stop + 1 + PAD < self.data.len() => stop = string_stop(self.data, stop + 2),
                _ => {
                    self.pos = stop;
                    return Err(Fault::Syntax("a string does not end, or holds a control character"));
                }
            }
        }
    }

    /// Moves past the word `true`, `false` or `null` at the cursor.
    #[inline]
    pub(super) fn word(&mut self, word: &'static [u8]) -> Outcome {
        if self.data.get(self.pos..).is_some_and(|rest| rest.starts_with(word)) {
            self.pos += word.len();
            return Ok(());
        }
        Err(Fault::Syntax("an unknown word"))
    }

    /// Moves past the number at the cursor.
    #[inline]
    pub(super) fn number(&mut self) -> Outcome<number::Number> {
        let number = number::scan(self.data, self.pos)?;
        self.pos = number.end;
        Ok(number)
    }

    /// Checks the value at the cursor and moves past it.
    pub(super) fn skip_value(&mut self) -> Outcome {
        match self.peek() {
            b'"' => self.skip_string(),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'[' => self.skip_array(),
            b'{' => self.skip_object(),
            _ => Err(Fault::Syntax("a value is missing")),
        }
    }

    fn skip_string(&mut self) -> Outcome {
        match self.string()? {
            Text::Plain(..) => Ok(()),
            Text::Escaped(start, end) => super::text::check_escapes(&self.data[start..end]),
        }
    }

    fn skip_array(&mut self) -> Outcome {
        self.enter()?;
        if self.peek() == b']' {
            self.leave();
            return Ok(());
        }
        loop {
            self.skip_value()?;
            if !self.next_or(b']')? {
                return Ok(());
            }
        }
    }

    fn skip_object(&mut self) -> Outcome {
        self.enter()?;
        if self.peek() == b'}' {
            self.leave();
            return Ok(());
        }
        loop {
            if self.peek() != b'"' {
                return Err(Fault::Syntax("a field name is missing"));
            }
            self.skip_string()?;
            self.colon()?;
            self.skip_value()?;
            if !self.next_or(b'}')? {
                return Ok(());
            }
        }
    }

    /// After a value: true, past the comma, if another value follows; false, past `close`, if none does.
    #[inline(always)]
    pub(super) fn next_or(&mut self, close: u8) -> Outcome<bool> {
        self.skip_whitespace();
        let byte = self.peek();
        if byte == b',' {
            self.pos += 1;
            self.skip_whitespace();
            return Ok(true);
        }
        if byte == close {
            self.leave();
            return Ok(false);
        }
        Err(Fault::Syntax("a comma or closing bracket is missing"))
    }

    /// Moves past the colon between a field's name and its value, and to the value.
    #[inline(always)]
    pub(super) fn colon(&mut self) -> Outcome {
        self.skip_whitespace();
        if self.peek() != b':' {
            return Err(Fault::Syntax("a colon is missing"));
        }
        self.pos += 1;
        self.skip_whitespace();
        Ok(())
    }
}

/// The first quote, backslash or control character at or after `pos`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn string_stop(data: &[u8], mut pos: usize) -> usize {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    while let Some(block) = data.get(pos..pos + 16) {
        // SAFETY: SSE2 is part of x86_64, and `block` is 16 readable bytes; the load needs no alignment.
        let mask = unsafe {
            let bytes = _mm_loadu_si128(block.as_ptr().cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
            let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
        };
        if mask != 0 {
            return pos + mask.trailing_zeros() as usize;
        }
        pos += 16;
    }
    pos
}

/// The first quote, backslash or control character at or after `pos`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn string_stop(data: &[u8], pos: usize) -> usize {
    let rest = data.get(pos..).unwrap_or(&[]);
    pos + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len())
}
