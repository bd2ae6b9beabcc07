//! The steps that random pipelines are made of: one SELECT each, over one or two views.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::joins;
use super::queries::{Context, Made, Ties, View};

impl Context<'_> {
    /// One of some texts.
    pub fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts.choose(self.random).copied().unwrap_or_default()
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }
}

/// A step over the newest view, or over one before it.
pub fn any(context: &mut Context<'_>, views: &[View]) -> Made {
    let newest = views.last().expect("there is a source");
    for _ in 0..200 {
        let x = if context.chance(75) { newest } else { views.choose(context.random).unwrap_or(newest) };
        let y = views.choose(context.random).unwrap_or(newest);
        let made = match context.random.random_range(0..22) {
            0 => Some(project(context, x)),
            1 => deduplicate(context, x),
            2 => first_row(context, x),
            3..=5 => rolling(context, x),
            6..=8 => windowed(context, x),
            9 | 10 => grouped(context, x),
            11 => distinct(context, x),
            12 | 13 => top_n(context, x),
            14 => union(context, x, y),
            15 => Some(unnest(context, x)),
            16 => above_mean(context, x, y),
            _ => joins::any(context, x, y),
        };
        if let Some(made) = made.filter(|made| made.view.rows < 4_000.0) {
            return made;
        }
    }
    project(context, newest)
}

/// Windows with time between them.
const APART: &str = "INTERVAL '20 seconds', INTERVAL '5 seconds'";

/// A step that drops rows that are a day late, and rows without a time.
pub fn guard(context: &mut Context<'_>, x: &View) -> Made {
    loop {
        let made = if context.chance(60) { deduplicate(context, x) } else { windowed(context, x) };
        // A row between two windows is in none of them, and so never late.
        if let Some(made) = made.filter(|made| !made.select.contains(APART)) {
            return made;
        }
    }
}

fn project(context: &mut Context<'_>, x: &View) -> Made {
    let k = context.pick(&["k", "k", "k", "k % 3", "CASE WHEN k = 1 THEN NULL ELSE k END"]);
    let g = context.pick(&[
        "g",
        "g",
        "upper(g)",
        "coalesce(g, 'none')",
        "CASE WHEN v > 2 THEN 'high' WHEN v IS NULL THEN NULL ELSE 'low' END",
    ]);
    let v = context.pick(&[
        "v",
        "v",
        "v * 2 + 1",
        "CASE WHEN n > 2 THEN v END",
        "abs(v)",
        "CAST(n AS DOUBLE)",
        "nullif(v, 0)",
    ]);
    let n = context.pick(&["n", "n", "n + 1", "coalesce(n, 0) % 7", "CASE g WHEN 'g1' THEN 1 WHEN 'g2' THEN n END"]);
    let ts = context.pick(&[
        "ts",
        "ts",
        "ts",
        "ts + INTERVAL '7 seconds'",
        "ts - INTERVAL '3 seconds'",
        "date_trunc('second', ts)",
        "date_bin(INTERVAL '5 seconds', ts)",
    ]);
    let filter = context.pick(&[
        "",
        " WHERE v > -5",
        " WHERE n IS NOT NULL",
        " WHERE k <> 2",
        " WHERE g IN ('g0', 'g1', 'high', 'HIGH')",
        " WHERE g NOT LIKE '%2'",
        " WHERE id % 3 <> 1",
        " WHERE NOT isnan(v) OR n > 3",
    ]);
    let select = format!("SELECT id, {k} AS k, {g} AS g, {v} AS v, {n} AS n, {ts} AS ts FROM {}{filter}", x.name);
    let mut view = View { rows: x.rows, ..x.clone() };
    if ts.starts_with("date_") || (matches!(&x.ties, Ties::CopiesWithin(_)) && (k != "k" || g != "g")) {
        view.ties = Ties::Any;
    }
    Made { select, view }
}

fn deduplicate(context: &mut Context<'_>, x: &View) -> Option<Made> {
    if !(x.timed && !x.retract || context.careless) || !x.unique {
        return None;
    }
    let key = context.pick(&["id", "id", "id, k"]);
    let within = context.pick(&["1 hour", "90 seconds"]);
    let select = format!("SELECT * FROM DEDUPLICATE(TABLE {}, KEY({key}), WITHIN INTERVAL '{within}')", x.name);
    Some(Made { select, view: View { copies: false, ..x.clone() } })
}

fn first_row(context: &mut Context<'_>, x: &View) -> Option<Made> {
    let keys = context.pick(&["k", "g", "k, g", "id"]);
    let columns: Vec<&str> = keys.split(", ").collect();
    let allowed = x.timed && !x.retract && (!context.on_arrival || x.ordered);
    if !allowed || !(x.has_no_ties_within(&columns) || (keys == "id" && x.unique)) {
        return None;
    }
    let select = format!(
        "SELECT id, k, g, v, n, ts FROM (SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY ts) AS rn FROM {}) WHERE rn = 1",
        x.name
    );
    Some(Made { select, view: View { copies: false, ..x.clone() } })
}

fn rolling(context: &mut Context<'_>, x: &View) -> Option<Made> {
    if !(x.timed && !x.retract || context.careless) || (context.on_arrival && !x.ordered) {
        return None;
    }
    let keys = context.pick(&["k", "k", "g", "k, g", ""]);
    let columns: Vec<&str> = keys.split(", ").filter(|column| !column.is_empty()).collect();
    let strict = x.has_no_ties_within(&columns);
    if context.on_arrival && !strict {
        return None;
    }
    let mut windows = Vec::new();
    let mut looks_ahead = false;
    for name in ["w1", "w2"] {
        let (frame, ahead) = frame(context, strict);
        let by = if keys.is_empty() { String::new() } else { format!("PARTITION BY {keys} ") };
        windows.push(format!("{name} AS ({by}ORDER BY ts {frame})"));
        looks_ahead |= ahead;
    }
    let (v, v_ahead) = rolling_double(context, strict);
    let (n, n_ahead) = rolling_integer(context, strict);
    let g = context.pick(&["g", "g", "CASE WHEN count(*) OVER w1 > 3 THEN 'busy' ELSE g END"]);
    let select =
        format!("SELECT id, k, {g} AS g, {v} AS v, {n} AS n, ts FROM {} WINDOW {}", x.name, windows.join(", "));
    let mut view = View { timed: x.timed && !(looks_ahead || v_ahead || n_ahead), ..x.clone() };
    if x.copies {
        // Copies of a row may see different neighbours.
        view = View { unique: false, ties: Ties::Any, ..view };
    }
    Some(Made { select, view })
}

/// A frame, and whether the next rows decide when a row is complete.
fn frame(context: &mut Context<'_>, strict: bool) -> (&'static str, bool) {
    const RANGES: &[&str] = &[
        "RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW",
        "RANGE BETWEEN INTERVAL '30 seconds' PRECEDING AND CURRENT ROW",
        "RANGE BETWEEN INTERVAL '40 seconds' PRECEDING AND INTERVAL '10 seconds' PRECEDING",
        "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        "",
    ];
    const AROUND: &[&str] = &[
        "RANGE BETWEEN INTERVAL '4 seconds' PRECEDING AND INTERVAL '6 seconds' FOLLOWING",
        "RANGE BETWEEN CURRENT ROW AND INTERVAL '9 seconds' FOLLOWING",
    ];
    const ROWS: &[&str] = &[
        "ROWS BETWEEN 3 PRECEDING AND CURRENT ROW",
        "ROWS BETWEEN 4 PRECEDING AND 1 PRECEDING",
        "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    ];
    const ROWS_AHEAD: &[&str] =
        &["ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING", "ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING"];
    match context.random.random_range(0..10) {
        0 | 1 if !context.on_arrival => (context.pick(AROUND), false),
        2..=4 if strict => (context.pick(ROWS), false),
        5 if strict && !context.on_arrival => (context.pick(ROWS_AHEAD), true),
        _ => (context.pick(RANGES), false),
    }
}

fn rolling_double(context: &mut Context<'_>, strict: bool) -> (String, bool) {
    let window = context.pick(&["w1", "w2"]);
    let functions: &[&str] = match (strict, context.on_arrival) {
        (true, false) => &[
            "sum(v)",
            "AVG",
            "min(v)",
            "max(v)",
            "VAR",
            "lag(v)",
            "lag(v, 2)",
            "lead(v)",
            "first_value(v)",
            "last_value(v)",
        ],
        (true, true) => {
            &["sum(v)", "AVG", "min(v)", "max(v)", "VAR", "lag(v)", "lag(v, 2)", "first_value(v)", "last_value(v)"]
        }
        _ => &["sum(v)", "AVG", "min(v)", "max(v)", "VAR"],
    };
    let function = context.pick(functions);
    (over(context, function, window), function.starts_with("lead"))
}

fn rolling_integer(context: &mut Context<'_>, strict: bool) -> (String, bool) {
    let window = context.pick(&["w1", "w2"]);
    let functions: &[&str] = match (strict, context.on_arrival) {
        (true, false) => &["count(*)", "count(v)", "sum(n)", "min(n)", "max(n)", "lag(n)", "lead(n)", "row_number()"],
        (true, true) => &["count(*)", "count(v)", "sum(n)", "min(n)", "max(n)", "lag(n)", "row_number()"],
        _ => &["count(*)", "count(v)", "sum(n)", "min(n)", "max(n)"],
    };
    let function = context.pick(functions);
    (format!("CAST({} AS BIGINT)", over(context, function, window)), function.starts_with("lead"))
}

/// A function over a window. Means and variances are rounded to quarters, so that sums of them do not hang on their order. In batch, a NaN
/// that has left a frame would stay in its sums.
fn over(context: &mut Context<'_>, function: &str, window: &str) -> String {
    let v = number(context);
    match function {
        "AVG" => format!("floor(avg({v}) OVER {window} * 4) / 4"),
        "VAR" => format!("floor(var_pop({v}) OVER {window} * 4 + 0.1234567) / 4"),
        "sum(v)" if context.chance(30) => format!("sum({v}) FILTER (WHERE n > 1) OVER {window}"),
        "sum(v)" | "min(v)" | "max(v)" => format!("{}({v}) OVER {window}", &function[..3]),
        _ => format!("{function} OVER {window}"),
    }
}

/// `v`, with nulls in place of NaN, whose place among numbers hangs on their order in some of DataFusion's aggregates.
fn number(context: &Context<'_>) -> &'static str {
    if context.nan { "CASE WHEN NOT isnan(v) THEN v END" } else { "v" }
}

/// An aggregate that gives a DOUBLE, and one that gives a BIGINT.
fn aggregates(context: &mut Context<'_>) -> (String, &'static str) {
    let double = match context.random.random_range(0..9) {
        0 => "floor(avg(v) * 4) / 4".to_owned(),
        1 => "floor(var_pop(v) * 4 + 0.1234567) / 4".to_owned(),
        2 => "sum(v) FILTER (WHERE n > 1)".to_owned(),
        3 => "CAST(count(DISTINCT v) AS DOUBLE)".to_owned(),
        4 => format!("min({})", number(context)),
        5 => format!("max({})", number(context)),
        6 => "median(v)".to_owned(),
        _ => "sum(v)".to_owned(),
    };
    let integer =
        context.pick(&["count(*)", "count(*)", "count(v)", "sum(n)", "min(n)", "max(n)", "count(DISTINCT g)"]);
    (double, integer)
}

fn windowed(context: &mut Context<'_>, x: &View) -> Option<Made> {
    if !(x.timed && !x.retract || context.careless) {
        return None;
    }
    let keys = context.pick(&["k", "k", "g", "k, g", ""]);
    let columns: Vec<&'static str> = keys.split(", ").filter(|column| !column.is_empty()).collect();
    let input = &x.name;
    let session = context.chance(25);
    let truncated = !session && context.chance(15);
    let by = if keys.is_empty() { String::new() } else { format!("{keys}, ") };
    let (from, group, time) = if session {
        let gap = context.pick(&["2 seconds", "5 seconds", "9 seconds"]);
        let part = if keys.is_empty() { String::new() } else { format!(" PARTITION BY {keys}") };
        let from = format!("SESSION(TABLE {input}{part}, DESCRIPTOR(ts), INTERVAL '{gap}')");
        (from, format!("{by}window_start, window_end"), context.pick(&["window_end", "window_end", "window_start"]))
    } else if truncated {
        (input.clone(), format!("{by}date_trunc('minute', ts)"), "date_trunc('minute', ts)")
    } else {
        let size = context.pick(&[
            "TUMBLE(TABLE {}, DESCRIPTOR(ts), INTERVAL '10 seconds')",
            "TUMBLE(TABLE {}, DESCRIPTOR(ts), INTERVAL '1 minute')",
            "TUMBLE({}, ts, INTERVAL '15 seconds', INTERVAL '4 seconds')",
            "HOP(TABLE {}, DESCRIPTOR(ts), INTERVAL '5 seconds', INTERVAL '15 seconds')",
            "HOP(TABLE {}, DESCRIPTOR(ts), INTERVAL '10 seconds', INTERVAL '40 seconds')",
            "HOP(TABLE {}, DESCRIPTOR(ts), INTERVAL '20 seconds', INTERVAL '5 seconds')",
        ]);
        let time = context.pick(&["window_end", "window_start"]);
        (size.replace("{}", input), format!("{by}window_start, window_end"), time)
    };
    let (v, n) = aggregates(context);
    let k = if columns.contains(&"k") { "k" } else { "max(k)" };
    let g = if columns.contains(&"g") { "g" } else { "min(g)" };
    let having = context.pick(&["", "", "", " HAVING count(*) > 1"]);
    let number = if columns.contains(&"k") { "coalesce(k, -7) * 10000000000000 + " } else { "" };
    let select = format!(
        "SELECT {number}CAST(round(date_part('epoch', {time}) * 1000) AS BIGINT) AS id, {k} AS k, {g} AS g, {v} AS v, \
         CAST({n} AS BIGINT) AS n, {time} AS ts FROM {from} GROUP BY {group}{having}"
    );
    let start = session && time == "window_start";
    let view = View {
        name: String::new(),
        timed: !start,
        retract: x.retract,
        unique: !columns.contains(&"g"),
        ties: if columns.is_empty() { Ties::Copies } else { Ties::CopiesWithin(columns) },
        copies: false,
        ordered: false,
        rows: x.rows,
    };
    Some(Made { select, view })
}

fn grouped(context: &mut Context<'_>, x: &View) -> Option<Made> {
    let keys = context.pick(&["k", "k", "g", "k, g", "k % 2", "v", ""]);
    let (mut v, n) = aggregates(context);
    if keys.is_empty() {
        return Some(whole(x, &v, n));
    }
    let k = match keys {
        "k" | "k, g" => "k",
        "k % 2" => "k % 2",
        _ => "max(k)",
    };
    if keys == "v" {
        v = "v".to_owned();
    }
    let g = if keys.ends_with('g') { "g" } else { "min(g)" };
    let having = context.pick(&["", "", "", " HAVING count(*) > 3"]);
    let select = format!(
        "SELECT {k} AS id, {k} AS k, {g} AS g, {v} AS v, CAST({n} AS BIGINT) AS n, max(ts) AS ts FROM {} GROUP BY {keys}{having}",
        x.name
    );
    let view = View {
        name: String::new(),
        timed: false,
        retract: true,
        unique: keys.starts_with("k") && keys != "k, g",
        ties: Ties::Any,
        copies: false,
        ordered: false,
        rows: 12.0,
    };
    Some(Made { select, view })
}

/// One row of all rows. Where there are none, a batch gives a row of nulls and a stream gives nothing.
fn whole(x: &View, v: &str, n: &str) -> Made {
    let select = format!(
        "SELECT count(*) AS id, max(k) AS k, min(g) AS g, {v} AS v, CAST({n} AS BIGINT) AS n, max(ts) AS ts FROM {} \
         HAVING count(*) > 0",
        x.name
    );
    let view = View {
        name: String::new(),
        timed: false,
        retract: true,
        unique: true,
        ties: Ties::Copies,
        copies: false,
        ordered: false,
        rows: 1.0,
    };
    Made { select, view }
}

/// Rows above the mean of a view, which changes as rows come.
fn above_mean(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    let mean = context.pick(&["floor(avg(n) * 4) / 4", "max(n) - 1"]);
    let select = format!("SELECT id, k, g, v, n, ts FROM {} WHERE n > (SELECT {mean} FROM {})", x.name, y.name);
    (x.rows < 300.0).then(|| Made { select, view: View { timed: false, retract: true, ordered: false, ..x.clone() } })
}

fn unnest(context: &mut Context<'_>, x: &View) -> Made {
    let list = context.pick(&["make_array(n, n + 1)", "make_array(n, NULL, k)"]);
    let select = format!("SELECT id, k, g, v, unnest({list}) AS n, ts FROM {}", x.name);
    let view = View { unique: false, ties: Ties::Any, ordered: false, rows: x.rows * 3.0, ..x.clone() };
    Made { select, view }
}

fn distinct(context: &mut Context<'_>, x: &View) -> Option<Made> {
    if context.chance(50) {
        let select = format!("SELECT DISTINCT id, k, g, v, n, ts FROM {}", x.name);
        return Some(Made { select, view: View { copies: false, ordered: false, ..x.clone() } });
    }
    let select = format!(
        "SELECT DISTINCT k AS id, k, g, CAST(n AS DOUBLE) AS v, n, CAST(NULL AS TIMESTAMP) AS ts FROM {}",
        x.name
    );
    let view = View {
        timed: false,
        unique: false,
        ties: Ties::Any,
        copies: false,
        ordered: false,
        rows: x.rows.min(150.0),
        ..x.clone()
    };
    Some(Made { select, view })
}

fn top_n(context: &mut Context<'_>, x: &View) -> Option<Made> {
    let order = context.pick(&["v DESC", "v", "n DESC NULLS LAST", "v DESC NULLS LAST", "n NULLS FIRST, v"]);
    let limit = context.random.random_range(1..=4);
    let mut view = View {
        timed: false,
        retract: true,
        unique: false,
        ties: Ties::Any,
        ordered: false,
        rows: x.rows / 2.0,
        ..x.clone()
    };
    if context.chance(20) {
        if !x.unique {
            return None;
        }
        let select = format!("SELECT id, k, g, v, n, ts FROM {} ORDER BY {order}, id LIMIT {limit}", x.name);
        return Some(Made { select, view: View { rows: 4.0, ..view } });
    }
    let function = context.pick(&["row_number", "row_number", "rank", "dense_rank"]);
    if function == "row_number" && !x.unique {
        return None;
    }
    let order = if function == "row_number" { format!("{order}, id") } else { order.to_owned() };
    let closes = x.timed && !x.retract && context.chance(40);
    let keys = match closes {
        true => context.pick(&["ts", "ts, k"]),
        false => context.pick(&["k", "g", "k, g"]),
    };
    if closes {
        view = View { timed: true, retract: false, ..view };
    }
    let with_rank = if context.chance(50) { "CAST(rn AS BIGINT)" } else { "n" };
    let select = format!(
        "SELECT id, k, g, v, {with_rank} AS n, ts FROM (SELECT *, {function}() OVER (PARTITION BY {keys} ORDER BY {order}) AS rn \
         FROM {}) WHERE rn <= {limit}",
        x.name
    );
    Some(Made { select, view })
}

fn union(context: &mut Context<'_>, x: &View, y: &View) -> Option<Made> {
    let all = context.chance(75);
    let select = format!(
        "SELECT id, k, g, v, n, ts FROM {} UNION{} SELECT id, k, g, v, n, ts FROM {}",
        x.name,
        if all { " ALL" } else { "" },
        y.name
    );
    let view = View {
        name: String::new(),
        timed: x.timed && y.timed,
        retract: x.retract || y.retract,
        unique: false,
        ties: Ties::Any,
        copies: all,
        ordered: false,
        rows: x.rows + y.rows,
    };
    Some(Made { select, view })
}
