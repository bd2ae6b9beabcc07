//! Functions of numbers as Spark computes them.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, cast, lit, when};

use super::convert::{is_decimal, is_float};
use super::{Read, Reader, said};

impl Reader<'_> {
    pub(super) fn number_function(&self, name: &str, arguments: &[Expr]) -> Read<Option<Expr>> {
        let called = |name: &str| {
            let numbers = arguments.iter().map(|argument| self.double(argument)).collect::<Read<Vec<_>>>()?;
            self.call(name, numbers)
        };
        Ok(Some(match (name, arguments) {
            ("abs", [a]) if self.kind(a)?.is_numeric() => self.call("abs", vec![a.clone()])?,
            ("negative", [a]) => Expr::Negative(Box::new(a.clone())),
            ("ceil" | "ceiling" | "floor", [a]) => self.whole(if name == "floor" { name } else { "ceil" }, a)?,
            ("round", [a]) => self.rounded(a, &lit(0_i64))?,
            ("round", [a, places]) => self.rounded(a, places)?,
            ("exp" | "sin" | "cos" | "tan" | "atan" | "degrees" | "radians", [_])
            | ("atan2", [_, _])
            | ("pow" | "power", [_, _]) => called(if name == "pow" { "power" } else { name })?,
            ("sign" | "signum", [_]) => called("signum")?,
            ("sqrt", [a]) => {
                let a = self.double(a)?;
                let root = self.call("sqrt", vec![a.clone()])?;
                when(a.lt(lit(0.0)), lit(f64::NAN)).otherwise(root).map_err(said)?
            }
            ("ln" | "log", [a]) => self.logarithm("ln", a)?,
            ("log10" | "log2", [a]) => self.logarithm(name, a)?,
            ("log", [base, a]) => {
                self.arithmetic(self.logarithm("ln", a)?, Operator::Divide, self.logarithm("ln", base)?)?
            }
            ("mod", [a, b]) => self.arithmetic(a.clone(), Operator::Modulo, b.clone())?,
            ("pmod", [a, b]) => {
                let rest = self.arithmetic(a.clone(), Operator::Modulo, b.clone())?;
                let above = self.arithmetic(rest.clone(), Operator::Plus, b.clone())?;
                let above = self.arithmetic(above, Operator::Modulo, b.clone())?;
                let negative = self.compare(rest.clone(), Operator::Lt, lit(0_i64))?;
                when(negative, above).otherwise(rest).map_err(said)?
            }
            ("isnan", [_]) => self.call("coalesce", vec![called("isnan")?, lit(false)])?,
            _ => return Ok(None),
        }))
    }

    /// Logarithms of what is not above zero are null.
    fn logarithm(&self, name: &str, of: &Expr) -> Read<Expr> {
        let of = self.double(of)?;
        let found = self.call(name, vec![of.clone()])?;
        when(of.lt_eq(lit(0.0)), lit(ScalarValue::Float64(None))).otherwise(found).map_err(said)
    }

    /// The next whole number.
    fn whole(&self, name: &str, of: &Expr) -> Read<Expr> {
        match self.kind(of)? {
            kind if kind.is_integer() => Ok(of.clone()),
            kind if is_float(&kind) => Ok(cast(self.call(name, vec![of.clone()])?, DataType::Int64)),
            kind if is_decimal(&kind) => self.call(name, vec![of.clone()]),
            _ => Err(format!("`{name}` takes numbers")),
        }
    }

    fn rounded(&self, of: &Expr, places: &Expr) -> Read<Expr> {
        let Expr::Literal(ScalarValue::Int64(Some(places)), _) = places else {
            return Err("`round` needs a literal number of places".to_owned());
        };
        match self.kind(of)? {
            kind if kind.is_integer() && *places >= 0 => Ok(of.clone()),
            kind if is_float(&kind) && *places == 0 => self.call("round", vec![self.double(of)?]),
            DataType::Decimal128(precision, scale) if (0..=i64::from(scale)).contains(places) => {
                // One digit more for what is rounded up.
                let places = i8::try_from(*places).unwrap_or(scale);
                let kept = i32::from(precision) - i32::from(scale) + i32::from(places) + 1;
                let to = DataType::Decimal128(u8::try_from(kept.min(38)).unwrap_or(38), places);
                Ok(cast(self.cut(of.clone(), scale, &to)?, to))
            }
            DataType::Decimal128(..) if *places > 0 => Ok(of.clone()),
            _ => Err("`round` of a DOUBLE to places behind the point differs by engine".to_owned()),
        }
    }
}
