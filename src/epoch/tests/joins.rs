//! The joins of random pipelines.

use rand::Rng;

use super::queries::{Context, Made, Ties, View};

/// A join of two views, or of one to the table.
pub fn any(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    match context.random.random_range(0..10) {
        0..=3 => interval(context, x, y),
        4..=6 => unbounded(context, x, y),
        7 => asof(context, x, y),
        _ => lookup(context, x),
    }
}

const KEYS: [&str; 4] = ["x.k = y.k", "x.k = y.k", "x.g = y.g", "x.k = y.k AND x.g = y.g"];

/// Pairs that remain: none, or those that meet a condition on both sides.
fn residual(context: &mut Context<'_>) -> &'static str {
    context.pick(&["", "", "", " AND x.v > y.v", " AND x.n <> y.n"])
}

fn interval(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    if !(x.timed && y.timed) || x.rows * y.rows > 90_000.0 {
        return None;
    }
    let keys = context.pick(&KEYS);
    let bounds = context.pick(&[
        "y.ts BETWEEN x.ts - INTERVAL '5 seconds' AND x.ts + INTERVAL '8 seconds'",
        "y.ts BETWEEN x.ts AND x.ts + INTERVAL '12 seconds'",
        "x.ts >= y.ts - INTERVAL '2 seconds' AND x.ts < y.ts + INTERVAL '10 seconds'",
        "x.ts = y.ts",
        "y.ts > x.ts - INTERVAL '30 seconds' AND y.ts <= x.ts - INTERVAL '20 seconds'",
    ]);
    let condition = format!("{keys} AND {bounds}{}", residual(context));
    let bounded = !x.retract && !y.retract;
    if context.chance(30) {
        return Some(exists(context, x, y, &condition, bounded));
    }
    let kind = context.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let mut made = pairs(x, y, kind, &condition, x.rows * y.rows / 60.0 + x.rows + y.rows);
    made.view.timed = bounded && kind != "FULL JOIN";
    made.view.retract = !bounded;
    Some(made)
}

fn unbounded(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    if x.rows * y.rows > 20_000.0 {
        return None;
    }
    let condition = format!("{}{}", context.pick(&KEYS), residual(context));
    if context.chance(30) {
        if context.chance(30) {
            let not = if context.careless { "NOT " } else { "" };
            let select = format!("SELECT * FROM {} WHERE k {not}IN (SELECT k FROM {} WHERE n > 3)", x.name, y.name);
            let view = View { timed: false, retract: true, ordered: false, ..x.clone() };
            return Some(Made { select, view });
        }
        return Some(exists(context, x, y, &condition, false));
    }
    let kind = context.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let mut made = pairs(x, y, kind, &condition, x.rows * y.rows / 6.0 + x.rows + y.rows);
    made.view.timed = false;
    made.view.retract = x.retract || y.retract || kind != "JOIN";
    Some(made)
}

/// All columns of both sides, folded into six.
fn pairs(x: &View, y: &View, kind: &str, condition: &str, rows: f64) -> Made {
    let (id, ts) = match kind {
        "JOIN" => ("x.id % 1000000007 * 1000003 + y.id", "x.ts"),
        "LEFT JOIN" => ("x.id % 1000000007 * 1000003 + coalesce(y.id, -1)", "x.ts"),
        "RIGHT JOIN" => ("coalesce(x.id, -1) % 1000000007 * 1000003 + y.id", "y.ts"),
        _ => ("coalesce(x.id, -1) % 1000000007 * 1000003 + coalesce(y.id, -1)", "coalesce(x.ts, y.ts)"),
    };
    let select = format!(
        "SELECT {id} AS id, coalesce(x.k, y.k) AS k, y.g AS g, x.v AS v, coalesce(x.n, 0) + coalesce(y.n, 0) AS n, {ts} AS ts \
         FROM {} x {kind} {} y ON {condition}",
        x.name, y.name
    );
    let view = View {
        name: String::new(),
        timed: false,
        retract: false,
        unique: x.unique && y.unique,
        ties: Ties::Any,
        copies: x.copies || y.copies,
        ordered: false,
        rows,
    };
    Made { select, view }
}

/// Rows of x with, or without, a match in y.
fn exists(context: &mut Context<'_>, x: &View, y: &View, condition: &str, bounded: bool) -> Made {
    let not = context.pick(&["", "NOT "]);
    let select =
        format!("SELECT x.* FROM {} x WHERE {not}EXISTS (SELECT 1 FROM {} y WHERE {condition})", x.name, y.name);
    let view = View { timed: bounded, retract: !bounded, ordered: false, ..x.clone() };
    Made { select, view }
}

fn asof(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    let (keys, columns): (&str, &[&str]) = match context.chance(70) {
        true => ("x.k = y.k", &["k"]),
        false => ("x.k = y.k AND x.g = y.g", &["k", "g"]),
    };
    if !(x.timed && y.timed && !x.retract && !y.retract && y.has_no_ties_within(columns)) {
        return None;
    }
    let op = context.pick(&[">=", ">"]);
    let select = format!(
        "SELECT x.id, x.k, y.g, y.v, x.n, x.ts FROM {} x ASOF JOIN {} y MATCH_CONDITION (x.ts {op} y.ts) ON {keys}",
        x.name, y.name
    );
    let ties = if columns.len() == 1 && !matches!(&x.ties, Ties::CopiesWithin(known) if known.contains(&"g")) {
        x.ties.clone()
    } else {
        Ties::Any
    };
    Some(Made { select, view: View { ordered: false, ties, ..x.clone() } })
}

fn lookup(context: &mut Context<'_>, x: &View) -> Option<Made> {
    if x.retract && !context.careless {
        return None;
    }
    let kind = context.pick(&["JOIN", "LEFT JOIN"]);
    let version = if x.timed && !x.retract { context.pick(&["", " FOR SYSTEM_TIME AS OF x.ts"]) } else { "" };
    let more = context.pick(&["", "", " AND x.v > d.rate"]);
    let select = format!(
        "SELECT x.id, x.k, d.label AS g, d.rate AS v, x.n, x.ts FROM {} x {kind} dim{version} AS d ON x.k = d.k{more}",
        x.name
    );
    let view = View { unique: false, ties: Ties::Any, ordered: false, rows: x.rows * 1.3, ..x.clone() };
    Some(Made { select, view })
}
