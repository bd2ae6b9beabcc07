//! Random pipelines: views that feed each other through the operators, with what is known of the rows of each.
//!
//! Every view has the columns `id, k, g, v, n, ts`, so that any can be put on top of any. What is known of one decides what may come
//! next: what the reference says is refused is not written (but for a few on purpose), and nothing whose answer hangs on the order of ties.

use std::fmt::Write;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::steps;

/// Rows of a view that may have one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ties {
    /// Only copies of one row.
    Copies,
    /// Within equal values of these columns, only copies.
    CopiesWithin(Vec<&'static str>),
    Any,
}

/// A view, or a source.
#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    /// `ts` is event time.
    pub timed: bool,
    pub retract: bool,
    /// Rows with one `id` are copies of each other.
    pub unique: bool,
    pub ties: Ties,
    /// There may be copies of rows.
    pub copies: bool,
    /// Rows come in the order of their times.
    pub ordered: bool,
    /// About how many rows there are.
    pub rows: f64,
}

impl View {
    /// Rows of one time, within equal values of `columns`, are copies.
    pub fn has_no_ties_within(&self, columns: &[&str]) -> bool {
        match &self.ties {
            Ties::Copies => true,
            Ties::CopiesWithin(known) => known.iter().all(|column| columns.contains(column)),
            Ties::Any => false,
        }
    }
}

/// Properties of the input.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub sources: usize,
    /// Rows of each source.
    pub rows: usize,
    /// Rows come in order, each once, in one lane.
    pub ordered: bool,
    /// Rows that are a day late and rows without a time come, too: every source is read through what drops them.
    pub late: bool,
    pub nan: bool,
    /// Rolling windows and first rows come out on arrival.
    pub on_arrival: bool,
}

/// A generated pipeline.
#[derive(Debug)]
pub struct Queries {
    pub shape: Shape,
    pub sql: String,
    /// Something that the reference says is refused was written on purpose.
    pub provoked: bool,
}

/// Result of a step: a SELECT, and facts about its rows.
pub struct Made {
    pub select: String,
    pub view: View,
}

/// Input of a step.
pub struct Context<'a> {
    pub random: &'a mut StdRng,
    pub on_arrival: bool,
    pub nan: bool,
    /// Write also what is refused.
    pub careless: bool,
}

/// The pipeline of a seed.
pub fn generate(random: &mut StdRng) -> Queries {
    let ordered = random.random_bool(0.15);
    let shape = Shape {
        sources: random.random_range(1..=2),
        rows: random.random_range(60..=220),
        ordered,
        late: !ordered && random.random_bool(0.4),
        nan: random.random_bool(0.4),
        on_arrival: ordered && random.random_bool(0.6),
    };
    let mut views: Vec<View> = (0..shape.sources).map(|source| source_view(source, shape)).collect();
    let mut sql = declarations(shape);
    if shape.late {
        for source in 0..shape.sources {
            let made = steps::guard(&mut context(random, shape, false), &views[source].clone());
            // The source itself is not read again.
            views[source] = define(&mut sql, made, views.len() + source);
        }
    }
    let first = views.len();
    let mut provoked = false;
    let count = random.random_range(2..=5);
    for number in 0..count {
        let careless = random.random_bool(0.02);
        provoked |= careless;
        let made = steps::any(&mut context(random, shape, careless), &views);
        views.push(define(&mut sql, made, 10 + number));
    }
    inserts(random, &mut sql, &views[..], (first, shape));
    Queries { shape, sql, provoked }
}

fn context(random: &mut StdRng, shape: Shape, careless: bool) -> Context<'_> {
    Context { random, on_arrival: shape.on_arrival, nan: shape.nan, careless }
}

fn source_view(source: usize, shape: Shape) -> View {
    View {
        name: format!("s{source}"),
        timed: true,
        retract: false,
        unique: true,
        ties: Ties::Copies,
        copies: !shape.ordered,
        ordered: shape.ordered,
        rows: shape.rows as f64,
    }
}

/// The sources and the table.
pub fn declarations(shape: Shape) -> String {
    let mut sql = String::new();
    for source in 0..shape.sources {
        let _ = writeln!(
            sql,
            "CREATE SOURCE s{source} (id BIGINT, k BIGINT, g STRING, v DOUBLE, n BIGINT, ts TIMESTAMP, \
             WATERMARK FOR ts AS ts - INTERVAL '10 seconds') WITH (connector = 'file', path = 's{source}', format = 'json');"
        );
    }
    sql.push_str("CREATE TABLE dim (k BIGINT, label STRING, rate DOUBLE) USING DELTA;\n");
    sql
}

fn define(sql: &mut String, made: Made, number: usize) -> View {
    let name = format!("v{number}");
    let _ = writeln!(sql, "CREATE VIEW {name} AS {};", made.select);
    View { name, ..made.view }
}

/// INSERTs that read the newest view, and now and then one or two of those before it.
fn inserts(random: &mut StdRng, sql: &mut String, views: &[View], (first, shape): (usize, Shape)) {
    let mut read: Vec<&View> = views.last().into_iter().collect();
    let before = &views[first.min(views.len() - 1)..views.len() - 1];
    for _ in 0..random.random_range(0..=2) {
        read.extend(before.choose(random));
    }
    for number in 0..read.len() {
        let _ = writeln!(sql, "CREATE SINK out{number} WITH (connector = 'blackhole');");
    }
    let ttl = if random.random_bool(0.85) { "none" } else { "4000 days" };
    let emit = if shape.on_arrival { ", rolling_emit = 'on_arrival'" } else { "" };
    let _ = writeln!(sql, "CREATE PIPELINE p WITH (state_ttl = '{ttl}'{emit}) AS BEGIN");
    for (number, view) in read.into_iter().enumerate() {
        let filter = if random.random_bool(0.2) { " WHERE n IS NOT NULL" } else { "" };
        let _ = writeln!(sql, "  INSERT INTO out{number} SELECT * FROM {}{filter};", view.name);
    }
    sql.push_str("END;\n");
}
