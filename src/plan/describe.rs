//! Operators in words, for EXPLAIN: keys, time, what is remembered, when rows come out and when memory goes.

use arrow::datatypes::SchemaRef;

use super::operators::OperatorSpec;
use crate::delta::BeforeFirst;
use crate::evaluate::as_written;
use crate::operator::spec::{
    AggregateSpec, DeduplicateEmit, DeduplicateSpec, JoinSpec, LookupSpec, NewestSpec, RollingEmit, RollingKind,
    RollingSpec, TimeColumn, TopNSpec,
};

type Facts = Vec<(&'static str, String)>;

impl OperatorSpec {
    /// True when what it gives or forgets depends on how far event time has come.
    pub fn follows_time(&self) -> bool {
        match self {
            Self::Aggregate(spec) => spec.closing.is_some() || spec.ttl.and(spec.time).is_some(),
            Self::TopN(spec) => spec.closing.is_some() || spec.ttl.and(spec.time).is_some(),
            Self::Newest(spec) => spec.ttl.and(spec.time).is_some(),
            Self::Deduplicate(spec) => {
                spec.emit == DeduplicateEmit::OnWatermark || spec.within.and(spec.time).is_some()
            }
            Self::Join(spec) => {
                spec.bounds.is_some() || (spec.ttl.is_some() && spec.left_time.or(spec.right_time).is_some())
            }
            Self::Session(_) | Self::Rolling(_) | Self::Asof(_) => true,
            Self::Lookup(_) => false,
        }
    }

    /// True when rows may come out later than in the step in which they go in.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Aggregate(spec) => spec.closing.is_some(),
            Self::TopN(spec) => spec.closing.is_some(),
            Self::Deduplicate(spec) => spec.emit == DeduplicateEmit::OnWatermark,
            Self::Rolling(spec) => spec.emit == RollingEmit::OnWatermark,
            Self::Join(spec) => spec.bounds.is_some(),
            Self::Session(_) | Self::Asof(_) => true,
            Self::Lookup(_) | Self::Newest(_) => false,
        }
    }

    /// The consequence, for a reader of its output, of beginning with an empty state in the middle of a stream.
    pub fn begins_empty(&self) -> &'static str {
        match self {
            Self::Aggregate(spec) if spec.closing.is_some() => {
                "windows that are open now will lack the rows read before"
            }
            Self::Session(_) => "sessions that are open now will lack the rows read before",
            Self::TopN(spec) if spec.closing.is_some() => "windows that are open now will lack the rows read before",
            Self::Rolling(_) => "frames that reach back before now will lack the rows read before",
            Self::Aggregate(_) => "groups count only the rows that come from now on",
            Self::Newest(_) => {
                "a row that comes from now on, and is taken back, takes its key away, though rows read before may still have it"
            }
            Self::TopN(_) => "only rows that come from now on are ranked",
            Self::Deduplicate(_) => "a row whose key was read before passes once more",
            Self::Join(_) | Self::Asof(_) => "rows read before find no match any more",
            Self::Lookup(_) => "nothing is remembered",
        }
    }

    /// Its work, line by line: a word and its explanation.
    pub fn explain(&self) -> Facts {
        match self {
            Self::Aggregate(spec) => aggregate(spec),
            Self::Session(spec) => vec![
                ("keys", names(&spec.input, &spec.keys)),
                ("time", time(&spec.input, Some(spec.time))),
                ("state", "rows of open sessions".to_owned()),
                ("emits", format!("a session's rows when nothing has come for {}", interval(spec.gap))),
                ("evicts", "a session when it has come out".to_owned()),
            ],
            Self::Deduplicate(spec) => deduplicate(spec),
            Self::TopN(spec) => top_n(spec),
            Self::Newest(spec) => newest(spec),
            Self::Rolling(spec) => rolling(spec),
            Self::Join(spec) => join(spec),
            Self::Lookup(spec) => vec![
                (
                    "joins",
                    format!(
                        "{} to table {} on {}",
                        spec.join_type.to_string().to_lowercase(),
                        spec.table,
                        equalities(&spec.left, &spec.left_keys, &spec.right, &spec.right_keys)
                    ),
                ),
                ("version", looked_up(spec)),
                ("state", "the table's rows, followed version by version".to_owned()),
                ("emits", "at once".to_owned()),
            ],
            Self::Asof(spec) => vec![
                ("keys", equalities(&spec.left, &spec.left_keys, &spec.right, &spec.right_keys)),
                ("state", "left rows that wait; per key the right rows that a left row may still match".to_owned()),
                ("emits", "a left row when the right side is complete up to its time".to_owned()),
                ("evicts", "right rows older than the newest one before the watermark".to_owned()),
            ],
        }
    }
}

/// The version of a table that a row is joined to.
fn looked_up(spec: &LookupSpec) -> String {
    let Some(column) = spec.as_of else { return "the newest when the row comes".to_owned() };
    let before = match spec.before_first {
        BeforeFirst::Nothing => "no row",
        BeforeFirst::First => "the first version",
    };
    format!("the newest at {}; before the first version {before}", spec.left.field(column).name())
}

fn aggregate(spec: &AggregateSpec) -> Facts {
    let computed: Vec<_> = spec.aggregates.iter().map(|aggregate| aggregate.name().to_owned()).collect();
    let mut facts = vec![("keys", names(&spec.input, &spec.keys)), ("computes", computed.join(", "))];
    match spec.closing {
        Some(closing) => {
            let key = spec.input.field(closing.column).name();
            facts.push(("time", time(&spec.input, Some(closing))));
            facts.push(("state", "groups of open windows".to_owned()));
            facts.push((
                "emits",
                format!("a group once, when the watermark has passed {key} by {}", interval(closing.lag)),
            ));
            facts.push(("evicts", "a group when it has come out".to_owned()));
        }
        None => {
            facts.push(("state", "every group".to_owned()));
            facts.push(("emits", "changed groups with every micro-batch, the old row taken back".to_owned()));
            facts.push(("evicts", forgets(spec.ttl, "groups without rows for", clock(&spec.input, spec.time))));
        }
    }
    facts
}

fn deduplicate(spec: &DeduplicateSpec) -> Facts {
    let emits = match spec.emit {
        DeduplicateEmit::OnArrival => "the first row of each key, at once",
        DeduplicateEmit::OnWatermark => "the earliest row of each key, when its time is complete",
    };
    vec![
        ("keys", names(&spec.input, &spec.keys)),
        ("time", time(&spec.input, spec.time)),
        ("state", "keys".to_owned()),
        ("emits", emits.to_owned()),
        ("evicts", forgets(spec.within, "a key after", clock(&spec.input, spec.time))),
    ]
}

fn top_n(spec: &TopNSpec) -> Facts {
    let order: Vec<_> = spec
        .order
        .iter()
        .map(|(column, options)| {
            format!("{}{}", spec.input.field(*column).name(), if options.descending { " desc" } else { "" })
        })
        .collect();
    let kept =
        if spec.retract { "every row of each key".to_owned() } else { format!("{} rows of each key", spec.limit) };
    let (emits, evicts) = match spec.closing {
        Some(closing) => (
            format!(
                "the first {} of a key once, when {} is complete",
                spec.limit,
                spec.input.field(closing.column).name()
            ),
            "a key when it has come out".to_owned(),
        ),
        None => (
            format!("changes of the first {} of each key with every micro-batch", spec.limit),
            forgets(spec.ttl, "keys without rows for", clock(&spec.input, spec.time)),
        ),
    };
    vec![
        ("keys", names(&spec.input, &spec.keys)),
        ("order", order.join(", ")),
        ("state", kept),
        ("emits", emits),
        ("evicts", evicts),
    ]
}

fn newest(spec: &NewestSpec) -> Facts {
    vec![
        (
            "keys",
            format!(
                "{} (PRIMARY KEY of {}, of which the query may give several rows)",
                names(&spec.input, &spec.keys),
                spec.target
            ),
        ),
        ("state", "every row of each key".to_owned()),
        ("emits", "of each key the row that came last; when it is taken back, the one before".to_owned()),
        ("evicts", forgets(spec.ttl, "rows after", clock(&spec.input, spec.time))),
    ]
}

fn rolling(spec: &RollingSpec) -> Facts {
    let mut facts = vec![("keys", names(&spec.input, &spec.keys)), ("time", time(&spec.input, Some(spec.time)))];
    for function in &spec.functions {
        let name = match &function.function {
            RollingKind::Aggregate(aggregate, _) => aggregate.name().to_owned(),
            RollingKind::RowNumber => "row_number()".to_owned(),
            RollingKind::Lag { column, offset, .. } => format!("lag({}, {offset})", spec.input.field(*column).name()),
            RollingKind::LagOfValues { column, offset, .. } => {
                format!("lag({}, {offset}) ignore nulls", spec.input.field(*column).name())
            }
            RollingKind::FirstValue { column, .. } => format!("first_value({})", spec.input.field(*column).name()),
            RollingKind::LastValue { column, .. } => format!("last_value({})", spec.input.field(*column).name()),
            RollingKind::NthValue { column, n, .. } => format!("nth_value({}, {n})", spec.input.field(*column).name()),
        };
        facts.push(("computes", name));
    }
    for name in crate::operator::collecting(spec) {
        let limit = spec.collect_limit;
        facts.push((
            "costs",
            format!("{name} reads its whole frame for every row; frames over {limit} rows are refused"),
        ));
    }
    let emits = match spec.emit {
        RollingEmit::OnWatermark => "a row when its time is complete, in order of time",
        RollingEmit::OnArrival => "a row at once, from the rows known so far",
    };
    facts.push(("state", "rows within the widest frame".to_owned()));
    if let Some(shown) = &spec.shown {
        facts.push(("shows", format!("rows where {}; the others only count", as_written(shown))));
    }
    facts.push(("emits", emits.to_owned()));
    let unreachable = "rows that no frame reaches any more";
    let evicts = spec.ttl.map_or_else(
        || unreachable.to_owned(),
        |ttl| format!("{unreachable}; unbounded frames forget after {}", interval(ttl)),
    );
    facts.push(("evicts", evicts));
    facts
}

fn join(spec: &JoinSpec) -> Facts {
    let kind = spec.join_type.to_string().to_lowercase();
    let mut facts = vec![(
        "joins",
        format!("{kind} on {}", equalities(&spec.left, &spec.left_keys, &spec.right, &spec.right_keys)),
    )];
    match spec.bounds {
        Some(bounds) => {
            facts.push((
                "time",
                format!(
                    "{} - {} between {} and {}",
                    spec.right.field(bounds.right.column).name(),
                    spec.left.field(bounds.left.column).name(),
                    interval(bounds.lower),
                    interval(bounds.upper)
                ),
            ));
            facts.push(("state", "rows of both sides within the bounds".to_owned()));
            facts.push(("emits", "matches at once, rows without a match when none can come any more".to_owned()));
            facts.push(("evicts", "rows that the other side's watermark has passed".to_owned()));
        }
        None => {
            facts.push(("state", "rows of both sides".to_owned()));
            facts.push(("emits", "changes with every micro-batch".to_owned()));
            let clock = match spec.left_time {
                Some(time) => clock(&spec.left, Some(time)),
                None => clock(&spec.right, spec.right_time),
            };
            facts.push(("evicts", forgets(spec.ttl, "rows after", clock)));
        }
    }
    facts
}

fn names(schema: &SchemaRef, columns: &[usize]) -> String {
    match columns {
        [] => "none".to_owned(),
        columns => columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn equalities(left: &SchemaRef, left_keys: &[usize], right: &SchemaRef, right_keys: &[usize]) -> String {
    let pairs = left_keys.iter().zip(right_keys);
    let pair = |(l, r): (&usize, &usize)| format!("{} = {}", left.field(*l).name(), right.field(*r).name());
    pairs.map(pair).collect::<Vec<_>>().join(" and ")
}

fn time(schema: &SchemaRef, time: Option<TimeColumn>) -> String {
    match time {
        None => "processing time".to_owned(),
        Some(time) if time.lag == 0 => format!("{}, complete up to the watermark", schema.field(time.column).name()),
        Some(time) => {
            format!("{}, complete up to the watermark - {}", schema.field(time.column).name(), interval(time.lag))
        }
    }
}

/// The time by which state is forgotten: a query that leaves the event time out has processing time only.
fn clock(schema: &SchemaRef, time: Option<TimeColumn>) -> &str {
    time.map_or("processing time", |time| schema.field(time.column).name().as_str())
}

fn forgets(ttl: Option<i64>, what: &str, clock: &str) -> String {
    match ttl {
        Some(ttl) => format!("{what} {}, by {clock}", interval(ttl)),
        None => "nothing".to_owned(),
    }
}

/// Microseconds as a person says them.
fn interval(us: i64) -> String {
    const UNITS: [(i64, &str); 5] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "ms"),
    ];
    if us == 0 {
        return "0 seconds".to_owned();
    }
    // Floors lag one microsecond less than their width: said as the width.
    let whole = if (us + 1) % 1_000 == 0 { us + 1 } else { us };
    for (unit, name) in UNITS {
        if whole % unit == 0 {
            let count = whole / unit;
            let plural = if count.abs() == 1 || name == "ms" { "" } else { "s" };
            return format!("{count} {name}{plural}");
        }
    }
    format!("{whole} us")
}
