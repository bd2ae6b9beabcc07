//! Parses lines of `key=value` with unique keys, and their values, strictly.
//!
//! Numbers are restricted to the form that both readers understand alike: decimal digits with an optional sign, fraction and
//! exponent, separated by single spaces. Of anything else LightGBM would parse a prefix and carry on.

use std::fmt;
use std::str::FromStr;

/// A defect of a text model, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Counted from 1.
    pub line: usize,
    pub what: String,
}

impl Flaw {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The fields of a header or of a tree.
pub(super) struct Fields<'a> {
    fields: Vec<Field<'a>>,
    first_line: usize,
}

/// One line: `key=value`, or a bare `key`.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub key: &'a str,
    pub value: &'a str,
    pub bare: bool,
    line: usize,
}

impl<'a> Fields<'a> {
    /// Splits `text`, whose first line has the number `first_line`.
    pub fn parse(text: &'a str, first_line: usize) -> Result<Self, Flaw> {
        let mut fields: Vec<Field<'a>> = Vec::with_capacity(24);
        for (index, line) in text.split('\n').enumerate() {
            let (key, value, bare) = match line.split_once('=') {
                Some((key, value)) => (key, value, false),
                None => (line, "", true),
            };
            let field = Field { key, value, bare, line: first_line + index };
            if key.is_empty() {
                return Err(field.flaw("a line without a field name"));
            }
            if bare && key != "average_output" {
                return Err(field.flaw(format!("`{}` is not a field", shown(line))));
            }
            if fields.iter().any(|other| other.key == key) {
                return Err(field.flaw(format!("field `{}` is given twice", shown(key))));
            }
            if fields.len() == 64 {
                return Err(field.flaw("more than 64 fields"));
            }
            fields.push(field);
        }
        Ok(Self { fields, first_line })
    }

    /// Takes the field, which must exist.
    pub fn take(&mut self, key: &str) -> Result<Field<'a>, Flaw> {
        match self.take_if(key) {
            Some(field) if field.bare => Err(field.flaw(format!("field `{key}` has no value"))),
            Some(field) => Ok(field),
            None => Err(Flaw::new(self.first_line, format!("field `{key}` is missing"))),
        }
    }

    /// Takes the field, if it exists.
    pub fn take_if(&mut self, key: &str) -> Option<Field<'a>> {
        let index = self.fields.iter().position(|field| field.key == key)?;
        Some(self.fields.swap_remove(index))
    }

    /// Refuses fields that were not taken.
    pub fn finish(self) -> Result<(), Flaw> {
        match self.fields.iter().min_by_key(|field| field.line) {
            Some(field) => Err(field.flaw(format!("field `{}` is not known", shown(field.key)))),
            None => Ok(()),
        }
    }
}

impl<'a> Field<'a> {
    /// A flaw of this field.
    pub fn flaw(&self, what: impl Into<String>) -> Flaw {
        Flaw::new(self.line, what)
    }

    /// The value's words, separated by single spaces; none when the value is empty.
    pub fn words(&self) -> impl Iterator<Item = &'a str> {
        self.value.split(' ').filter(|_| !self.value.is_empty())
    }

    /// The value as one integer.
    pub fn number<T: FromStr>(&self) -> Result<T, Flaw> {
        self.integer(self.value)
    }

    /// The value as integers.
    pub fn numbers<T: FromStr>(&self) -> Result<Vec<T>, Flaw> {
        self.words().map(|word| self.integer(word)).collect()
    }

    /// The value as `count` integers.
    pub fn exactly<T: FromStr>(&self, count: usize) -> Result<Vec<T>, Flaw> {
        let numbers = self.numbers()?;
        self.counted(numbers.len(), count)?;
        Ok(numbers)
    }

    /// The value as `count` doubles, none of them NaN.
    pub fn exactly_doubles(&self, count: usize) -> Result<Vec<f64>, Flaw> {
        let numbers = self.words().map(|word| self.double(word)).collect::<Result<Vec<_>, _>>()?;
        self.counted(numbers.len(), count)?;
        Ok(numbers)
    }

    /// Checks a list that does not affect scores: `count` words that look like numbers.
    pub fn skim(&self, count: usize) -> Result<(), Flaw> {
        for word in self.words() {
            let unsigned = word.strip_prefix('-').unwrap_or(word);
            if !matches!(unsigned, "nan" | "inf") {
                self.double(word)?;
            }
        }
        self.counted(self.words().count(), count)
    }

    fn counted(&self, found: usize, wanted: usize) -> Result<(), Flaw> {
        if found == wanted {
            return Ok(());
        }
        Err(self.flaw(format!("field `{}` has {found} values instead of {wanted}", self.key)))
    }

    fn integer<T: FromStr>(&self, word: &str) -> Result<T, Flaw> {
        let digits = word.strip_prefix('-').unwrap_or(word);
        if !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(number) = word.parse()
        {
            return Ok(number);
        }
        Err(self.flaw(format!("`{}` in field `{}` is not a usable integer", shown(word), self.key)))
    }

    fn double(&self, word: &str) -> Result<f64, Flaw> {
        if (is_decimal(word) || matches!(word, "inf" | "-inf"))
            && let Ok(number) = word.parse()
        {
            return Ok(number);
        }
        Err(self.flaw(format!("`{}` in field `{}` is not a number", shown(word), self.key)))
    }
}

/// `-?digits(.digits)?(e[+-]?digits)?`
pub(super) fn is_decimal(word: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let word = word.strip_prefix('-').unwrap_or(word);
    let (mantissa, exponent) =
        word.split_once('e').map_or((word, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) =
        mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    digits(whole)
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

/// A piece of a damaged file, short enough for a message.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).flat_map(char::escape_default).collect();
    if text.chars().nth(40).is_some() { format!("{short}…") } else { short }
}
