//! Rows for a target with a PRIMARY KEY.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::DFSchema;

use super::Cutter;
use super::piece::Piece;
use super::unique::UniqueKey;
use crate::catalog::StateTtl;
use crate::error::Result;
use crate::operator::spec::NewestSpec;
use crate::plan::operators::OperatorSpec;

impl Cutter<'_> {
    /// Rows that may be taken back, at most one for each key of `target`: where no key of the rows says so already, an operator keeps what is
    /// under each key.
    pub fn keyed(&mut self, piece: Piece, unique: &[UniqueKey], target: &str, key: &[String]) -> Result<Piece> {
        let columns = piece.columns();
        let places = key.iter().map(|name| columns.iter().position(|column| column.name == *name));
        // A key that the rows lack is refused where they are written.
        let Some(keys) = places.collect::<Option<Vec<usize>>>() else { return Ok(piece) };
        let told_apart = unique.iter().any(|unique| unique.iter().all(|column| keys.contains(column)));
        if !piece.rows.retract || keys.is_empty() || told_apart {
            return Ok(piece);
        }
        let ttl = match self.options.state_ttl {
            Some(StateTtl::After(_)) => self.ttl("a PRIMARY KEY", "")?,
            _ => None,
        };
        let whole = Arc::clone(piece.plan.schema());
        let fields = whole.iter().take(columns.len()).map(|(table, field)| (table.cloned(), Arc::clone(field)));
        let schema = DFSchema::new_with_metadata(fields.collect(), HashMap::new())?;
        let spec = NewestSpec {
            target: target.to_owned(),
            input: Arc::new(whole.as_arrow().clone()),
            keys,
            ttl,
            time: piece.time(),
        };
        let times = vec![None; columns.len()];
        let input = self.input(piece, "newest_input")?;
        self.operator(OperatorSpec::Newest(spec), &[input], &schema, true, times)
    }
}
