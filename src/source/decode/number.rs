//! JSON numbers: strict syntax in one pass, then exact values: doubles bit for bit as `str::parse::<f64>`, integers and
//! decimals without floating point.

use super::fault::{Fault, Outcome};

/// A number in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
    /// The digits without sign and point as one integer; meaningful if `digits <= 19`.
    pub(super) mantissa: u64,
    /// The number of digits in `mantissa` without leading zeros.
    pub(super) digits: u32,
    /// The power of ten by which `mantissa` is multiplied.
    pub(super) exponent: i32,
    /// `true` if it begins with a minus.
    pub(super) negative: bool,
    /// `true` if it has a point or an exponent.
    pub(super) fractional: bool,
}

/// Reads the number at `pos`: `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`.
#[inline(always)]
pub(super) fn scan(data: &[u8], start: usize) -> Outcome<Number> {
    let byte = |pos: usize| data.get(pos).copied().unwrap_or(0);
    let mut pos = start;
    let negative = byte(pos) == b'-';
    pos += usize::from(negative);
    let mut mantissa = 0u64;
    let first = pos;
    while byte(pos).is_ascii_digit() {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte(pos) - b'0'));
        pos += 1;
    }
    let whole = pos - first;
    if whole == 0 {
        return Err(Fault::Syntax("a number has no digits"));
    }
    if whole > 1 && byte(first) == b'0' {
        return Err(Fault::Syntax("a number begins with 0"));
    }
    let mut digits = whole as u32;
    let mut exponent = 0i32;
    let mut fractional = false;
    if byte(pos) == b'.' {
        fractional = true;
        pos += 1;
        let fraction = pos;
        while byte(pos).is_ascii_digit() {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte(pos) - b'0'));
            pos += 1;
        }
        if pos == fraction {
            return Err(Fault::Syntax("a number ends in a point"));
        }
        digits += (pos - fraction) as u32;
        exponent = -i32::try_from(pos - fraction).unwrap_or(i32::MAX);
    }
    if byte(pos) | 0x20 == b'e' {
        fractional = true;
        let (value, end) = scan_exponent(data, pos + 1)?;
        exponent = exponent.saturating_add(value);
        pos = end;
    }
    if digits > 19 {
        digits = significant_digits(&data[first..pos]);
    }
    Ok(Number { start, end: pos, mantissa, digits, exponent, negative, fractional })
}

#[inline(never)]
fn scan_exponent(data: &[u8], mut pos: usize) -> Outcome<(i32, usize)> {
    let byte = |pos: usize| data.get(pos).copied().unwrap_or(0);
    let negative = byte(pos) == b'-';
    if matches!(byte(pos), b'+' | b'-') {
        pos += 1;
    }
    let first = pos;
    let mut value = 0i32;
    while byte(pos).is_ascii_digit() {
        value = value.saturating_mul(10).saturating_add(i32::from(byte(pos) - b'0'));
        pos += 1;
    }
    if pos == first {
        return Err(Fault::Syntax("a number has an exponent without digits"));
    }
    Ok((if negative { -value } else { value }, pos))
}

/// The number of digits before the exponent, without leading zeros.
#[cold]
fn significant_digits(text: &[u8]) -> u32 {
    let mantissa = text.iter().take_while(|byte| !matches!(byte, b'e' | b'E'));
    mantissa.filter(|byte| byte.is_ascii_digit()).skip_while(|byte| **byte == b'0').count() as u32
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The nearest double. Up to 2^53 and 10^22 one exact operation on exact operands is enough (Clinger 1990); other numbers
/// are left to the standard library.
#[inline(always)]
pub(super) fn to_f64(number: &Number, data: &[u8]) -> Outcome<f64> {
    let power = number.exponent.unsigned_abs() as usize;
    if number.digits <= 19 && number.mantissa <= 1 << 53 && power <= 22 {
        let mantissa = number.mantissa as f64;
        let value = if number.exponent < 0 { mantissa / POWERS[power] } else { mantissa * POWERS[power] };
        return Ok(if number.negative { -value } else { value });
    }
    parse_f64(&data[number.start..number.end])
}

#[inline(never)]
fn parse_f64(text: &[u8]) -> Outcome<f64> {
    let value: f64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Fault::BadText)?;
    if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange) }
}

/// The nearest float, rounded once.
pub(super) fn to_f32(number: &Number, data: &[u8]) -> Outcome<f32> {
    let text = std::str::from_utf8(&data[number.start..number.end]).map_err(|_| Fault::BadText)?;
    let value: f32 = text.parse().map_err(|_| Fault::BadText)?;
    if value.is_finite() { Ok(value) } else { Err(Fault::OutOfRange) }
}

/// The integer, exactly: `1.0` and `1e3` are integers, `1.5` loses digits.
#[inline(always)]
pub(super) fn to_i64(number: &Number, data: &[u8]) -> Outcome<i64> {
    if !number.fractional && number.digits <= 18 {
        let value = number.mantissa as i64;
        return Ok(if number.negative { -value } else { value });
    }
    i64::try_from(to_scaled(number, data, 0, Excess::Refuse)?).map_err(|_| Fault::OutOfRange)
}

/// The treatment of digits beyond the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// They must be zeros.
    Refuse,
    /// They are truncated towards minus infinity.
    Floor,
}

/// The number times 10^`scale` as an integer, exactly.
#[inline(never)]
pub(super) fn to_scaled(number: &Number, data: &[u8], scale: i8, excess: Excess) -> Outcome<i128> {
    let (mantissa, exponent) = exact_mantissa(number, data)?;
    let shift = i64::from(exponent) + i64::from(scale);
    let magnitude = if mantissa == 0 {
        0
    } else if shift >= 0 {
        let power = u32::try_from(shift).ok().filter(|power| *power <= 38).ok_or(Fault::OutOfRange)?;
        mantissa.checked_mul(10i128.pow(power)).ok_or(Fault::OutOfRange)?
    } else {
        let power = (-shift).min(39) as u32;
        let (whole, lost) = match 10i128.checked_pow(power) {
            Some(divisor) => (mantissa / divisor, mantissa % divisor),
            None => (0, mantissa),
        };
        match excess {
            _ if lost == 0 => whole,
            Excess::Refuse => return Err(Fault::LosesDigits),
            Excess::Floor => whole + i128::from(number.negative),
        }
    };
    Ok(if number.negative { -magnitude } else { magnitude })
}

/// All digits as one integer and its power of ten; trailing zeros after the point are left out.
fn exact_mantissa(number: &Number, data: &[u8]) -> Outcome<(i128, i32)> {
    if number.digits <= 19 {
        return Ok((i128::from(number.mantissa), number.exponent));
    }
    let text = &data[number.start..number.end];
    let end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let mut kept = &text[..end];
    let mut exponent = number.exponent;
    if kept.contains(&b'.') {
        while let [rest @ .., b'0'] = kept {
            kept = rest;
            exponent = exponent.saturating_add(1);
        }
    }
    let mut mantissa = 0i128;
    for digit in kept.iter().filter(|byte| byte.is_ascii_digit()) {
        mantissa = mantissa
            .checked_mul(10)
            .and_then(|value| value.checked_add(i128::from(digit - b'0')))
            .ok_or(Fault::OutOfRange)?;
    }
    Ok((mantissa, exponent))
}
