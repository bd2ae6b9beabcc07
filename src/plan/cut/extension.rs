//! SESSION, DEDUPLICATE, and the place of ASOF joins.

use std::sync::Arc;

use datafusion::logical_expr::{Expr, Extension, UserDefinedLogicalNodeCore};

use super::aggregate::with_columns;
use super::piece::{Piece, Stream, unique_schema};
use super::{Cutter, needs_append, refused};
use crate::error::{Error, Result};
use crate::operator::spec::{DeduplicateEmit, DeduplicateSpec, SessionSpec, TimeColumn};
use crate::plan::nodes::{AsofNode, DeduplicateNode, SessionNode};
use crate::plan::operators::OperatorSpec;
use crate::time::Lag;

impl Cutter<'_> {
    pub(super) fn extension(&mut self, extension: &Extension) -> Result<Piece> {
        let node = &extension.node;
        if let Some(session) = node.as_any().downcast_ref::<SessionNode>() {
            return self.session(session);
        }
        if let Some(deduplicate) = node.as_any().downcast_ref::<DeduplicateNode>() {
            return self.deduplicate(deduplicate);
        }
        if let Some(asof) = node.as_any().downcast_ref::<AsofNode>() {
            return self.cut(&asof.input);
        }
        Err(refused(&format!("`{}`", node.name())))
    }

    fn session(&mut self, node: &SessionNode) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        if piece.rows.retract {
            return Err(needs_append("SESSION"));
        }
        let (piece, keys) = with_columns(piece, &node.keys)?;
        let (piece, time) = timed(piece, &node.time, "SESSION")?;
        let schema = Arc::clone(node.schema());
        let spec = SessionSpec {
            input: Arc::new(piece.plan.schema().as_arrow().clone()),
            keys,
            time,
            gap: node.gap,
            output: unique_schema(&schema, false),
        };
        // A session comes out when its end is reached: ends yet to come are later than that; starts may be any age.
        let mut times = vec![None; schema.fields().len()];
        if let Some(end) = times.last_mut() {
            *end = Some(time.lag.saturating_sub(Lag::MICROSECOND));
        }
        let input = self.input(piece, "session_input")?;
        self.operator(OperatorSpec::Session(spec), &[input], &schema, false, times)
    }

    fn deduplicate(&mut self, node: &DeduplicateNode) -> Result<Piece> {
        let piece = self.cut(&node.input)?;
        if piece.rows.retract {
            return Err(needs_append("DEDUPLICATE"));
        }
        let (piece, keys) = with_columns(piece, &node.keys)?;
        let (piece, time) = match &node.time {
            Some(time) => timed(piece, time, "DEDUPLICATE").map(|(piece, time)| (piece, Some(time)))?,
            None => {
                let time = piece.time();
                // Without a watermark anywhere there is only processing time; with one, nothing else is meant.
                if time.is_none() && node.within.is_some() && self.follows_watermark(&piece) {
                    return Err(Error::sql("DEDUPLICATE … WITHIN needs event time, and no column of its table has it")
                        .with_detail("The table leaves out the source's watermark column, or computes it in a way that no watermark follows.")
                        .with_hint("Select the column, and name it if there are several: `DEDUPLICATE(TABLE t, KEY(k), DESCRIPTOR(ts), WITHIN …)`."));
                }
                (piece, time)
            }
        };
        let within = match node.within {
            Some(within) => Some(within),
            None => self.ttl("DEDUPLICATE without WITHIN", "Write `WITHIN INTERVAL '24 hours'`.")?,
        };
        let schema = Arc::clone(piece.plan.schema());
        let spec = DeduplicateSpec {
            input: Arc::new(schema.as_arrow().clone()),
            keys,
            time,
            within,
            emit: DeduplicateEmit::OnArrival,
        };
        let width = node.input.schema().fields().len();
        let times = piece.rows.times.clone();
        let input = self.input(piece, "deduplicate_input")?;
        let out = self.operator(OperatorSpec::Deduplicate(spec), &[input], &schema, false, times)?;
        let exprs = out.columns().into_iter().take(width).map(Expr::Column).collect();
        out.project(exprs)
    }
}

impl Cutter<'_> {
    /// True when a source of these rows has a watermark.
    fn follows_watermark(&self, piece: &Piece) -> bool {
        let timed = |stream: &Stream| stream.rows.times.iter().any(Option::is_some);
        self.streams.iter().any(|stream| timed(stream) && !stream.rows.sources.is_disjoint(&piece.rows.sources))
    }
}

/// The event-time column that a construct names.
fn timed(piece: Piece, time: &Expr, what: &str) -> Result<(Piece, TimeColumn)> {
    let (piece, places) = with_columns(piece, std::slice::from_ref(time))?;
    match piece.rows.times[places[0]] {
        Some(lag) => Ok((piece, TimeColumn { column: places[0], lag })),
        None => Err(Error::sql(format!("{what} needs event time, and `{time}` is none"))
            .with_detail("No watermark follows that column.")
            .with_hint("Declare `WATERMARK FOR ts AS ts - INTERVAL '5 seconds'` on the source and use `ts`.")),
    }
}
