//! Models trained by Python's `lightgbm`, with the scores that it computed (`fixtures/make.py`).

use super::{assert_all_agree, assert_same_bits, score};
use crate::model::Model;

const BINARY: (&str, &str) = (include_str!("fixtures/python_binary.txt"), include_str!("fixtures/python_binary.csv"));
const FOREST: (&str, &str) = (include_str!("fixtures/python_forest.txt"), include_str!("fixtures/python_forest.csv"));

/// Python's `float.hex` of a normal number: `-0x1.8p-2`.
fn from_hex(text: &str) -> f64 {
    let (sign, text) = text.strip_prefix('-').map_or((0, text), |rest| (1_u64 << 63, rest));
    let (fraction, exponent) = text.strip_prefix("0x1.").unwrap().split_once('p').unwrap();
    let fraction = u64::from_str_radix(&format!("{fraction:0<13}"), 16).unwrap();
    let exponent = (exponent.parse::<i64>().unwrap() + 1023) as u64;
    f64::from_bits(sign | exponent << 52 | fraction)
}

#[test]
fn models_from_python_are_read_and_give_pythons_scores() {
    for (text, rows) in [BINARY, FOREST] {
        let model = Model::from_text("python", text).unwrap();
        assert_eq!(model.features(), ["amount", "hour", "share", "merchant"]);
        let mut columns = vec![Vec::new(); 4];
        let mut expected = Vec::new();
        for line in rows.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            for (column, field) in columns.iter_mut().zip(&fields) {
                column.push(if field.is_empty() { f64::NAN } else { field.parse().unwrap() });
            }
            expected.push(from_hex(fields[4]));
        }
        assert_eq!(expected.len(), 60);
        assert_same_bits(&score(&model, &columns), &expected, &model.objective().to_string());
        assert_all_agree(text, &columns, "python");
    }
}
