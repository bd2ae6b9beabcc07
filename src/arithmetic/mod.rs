//! Arithmetic on whole numbers as SQL means it, in queries, pipelines and CHECKs alike.

mod checked;

pub use checked::{checked_arithmetic, checked_constant, checked_constants, checked_node};
