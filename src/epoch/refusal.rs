//! The errors of refused starts: the epoch that each sink has, and the remedy.

use super::protocol::{Held, Refusal, SinkFact, SinkKind};
use super::survey::Survey;
use crate::error::Error;
use crate::sink::dead_letters;
use crate::state::{Epoch, Standing};

/// Files that a message names before it counts the rest.
const NAMED_FILES: usize = 5;

/// The error of a refused start. `possible` is the newest epoch that `weir restore` can take the pipeline to.
pub fn refused(pipeline: &str, refusal: &Refusal, survey: &Survey, possible: Option<Epoch>) -> Error {
    let each = each_has(&survey.facts.sinks);
    let go_back = || go_back(pipeline, possible, survey);
    match refusal {
        Refusal::Conflict { epoch, sinks: [a, b] } => {
            Error::damaged(format!("`{a}` and `{b}` have epoch {epoch} of pipeline `{pipeline}` from two different runs"))
                .with_detail(format!("One of them was written by a copy of this warehouse, or copied from one. {each}"))
                .with_hint(go_back())
        }
        Refusal::HalfDone { newest, sinks: behind } => half_done(pipeline, *newest, behind, (&each, &go_back())),
        Refusal::PutBack { newest, sinks: behind } => {
            Error::damaged(format!("{} no longer hold{} what pipeline `{pipeline}` has committed", list(behind), plural(behind)))
                .with_detail(format!(
                    "Epoch {} is the newest. {each} A table was restored to an older version, or its folder was removed or replaced by an older copy.",
                    newest.epoch
                ))
                .with_hint(go_back())
        }
        Refusal::FilesGone { newest, sinks: behind } => {
            Error::damaged(format!("files of epoch {} of pipeline `{pipeline}` are gone from {}", newest.epoch, list(behind)))
                .with_detail(format!("{each} The manifest names {}.", files(&survey.missing)))
                .with_hint(go_back())
        }
        Refusal::KafkaForgot { newest } => kafka_forgot(pipeline, *newest, &each, possible),
        Refusal::StateGone { newest } => {
            Error::damaged(format!("the state of pipeline `{pipeline}` after epoch {} is gone", newest.epoch))
                .with_detail(format!("All sinks were taken back to this epoch. {each}"))
                .with_hint(format!("Restore the warehouse's `_weir/{pipeline}` folder as it was then, if you can. {}", go_back()))
        }
        Refusal::Lacking { newest, joining, vanished } => lacking(pipeline, *newest, (joining, vanished), &each),
        Refusal::Vanished { manifest } => {
            Error::damaged(format!("no table of pipeline `{pipeline}` holds an epoch, though epoch {manifest} was begun"))
                .with_detail(format!("{each} The tables were removed, or restored to before their first epoch."))
                .with_hint(go_back())
        }
        Refusal::Restoring { epoch } => {
            Error::damaged(format!("a restore of pipeline `{pipeline}` to epoch {epoch} did not finish"))
                .with_detail(each)
                .with_hint(format!("Run `{}` again.", restore_command(pipeline, *epoch, survey.restore_needs_sql)))
        }
    }
}

/// A table that had epochs and does not exist. The command makes dead letters again.
pub fn gone(pipeline: &str, table: &str, location: &str, had: Standing, restore: Option<&str>) -> Error {
    let again = match (table == dead_letters::NAME, restore) {
        (true, Some(command)) => format!("Bring the folder back, or make the table again, empty: `{command}`."),
        (true, None) => format!("Bring the folder back. {}", nothing_left(pipeline)),
        (false, _) => {
            "Bring the folder back. To continue with an empty table instead, declare it under another name or LOCATION."
                .to_owned()
        }
    };
    Error::damaged(format!("table `{table}` of pipeline `{pipeline}` does not exist at `{location}`"))
        .with_detail(format!("It had epoch {}; its folder was removed or renamed.", had.epoch))
        .with_hint(again)
}

/// The newest manifest is gone, and operators have state.
pub fn state_unknown(pipeline: &str, possible: Option<Epoch>, needs_sql: bool) -> Error {
    let rebuild = "`weir run --allow-rebuild` continues where the tables are with empty state: later results lack what came before.";
    let hint = match possible {
        Some(epoch) => format!(
            "`{}` takes tables, offsets and state to epoch {epoch} together, and nothing is lost if the sources still have the later records. {rebuild}",
            restore_command(pipeline, epoch, needs_sql)
        ),
        None => format!("Restore the warehouse's `_weir/{pipeline}` folder if you can. {rebuild}"),
    };
    Error::damaged(format!(
        "the newest manifest of pipeline `{pipeline}` is gone, and with it the state of its operators"
    ))
    .with_hint(hint)
}

fn half_done(pipeline: &str, newest: Standing, behind: &[String], (each, go_back): (&str, &str)) -> Error {
    let Standing { epoch, manifest } = newest;
    Error::damaged(format!("manifest {manifest} of epoch {epoch} of pipeline `{pipeline}` is missing"))
        .with_detail(format!(
            "{each} Without the manifest {} cannot be brought up to epoch {epoch}, and computing it again would repeat what other sinks have. It was removed, or written by a copy of this warehouse.",
            list(behind),
        ))
        .with_hint(format!("Restore the warehouse's `_weir` folder if you can. {go_back}"))
}

fn lacking(pipeline: &str, newest: Standing, (joining, vanished): (&[String], &[String]), each: &str) -> Error {
    let epoch = newest.epoch;
    let hint = format!(
        "If a folder was moved: move it back, undo the edit of the SQL, run once, then move it again. If a table was copied: copy it again once the pipeline is at rest. To begin an empty table where the pipeline is now, give it another name or LOCATION. `weir run --allow-rebuild` goes on with the tables as they are: {} for good.",
        match joining {
            [] => format!("the rows of epoch {epoch} that {} may lack are lost", list(vanished)),
            _ => format!("{} lack{} what was committed since", list(joining), plural(joining)),
        }
    );
    let error = match (joining, vanished) {
        ([], _) => Error::damaged(format!(
            "{} took part in epoch {epoch} of pipeline `{pipeline}`, and do{} not exist",
            list(vanished),
            if vanished.len() == 1 { "es" } else { "" }
        ))
        .with_detail(format!("The SQL no longer names {}, and nothing shows whether the epoch was committed to it. {each}", list(vanished))),
        (_, []) => Error::damaged(format!("{} hold{} an older epoch of pipeline `{pipeline}`", list(joining), plural(joining)))
            .with_detail(format!("Epoch {epoch} is the newest. {each} A table that joins the pipeline again, or a copy of one, lacks the epochs in between.")),
        (_, _) => Error::damaged(format!(
            "{} hold{} an older epoch of pipeline `{pipeline}`, and {} {} gone",
            list(joining),
            plural(joining),
            list(vanished),
            if vanished.len() == 1 { "is" } else { "are" }
        ))
        .with_detail(format!("Epoch {epoch} is the newest, and {} took part in it. {each} A folder was moved or renamed before the epoch was committed to it.", list(vanished))),
    };
    error.with_hint(hint)
}

fn kafka_forgot(pipeline: &str, newest: Option<Standing>, each: &str, possible: Option<Epoch>) -> Error {
    let next = newest.map_or(Epoch(1), |newest| newest.epoch.next());
    let hint = match (newest, possible) {
        (Some(_), Some(possible)) => format!(
            "Look at the end of the topics. If the messages after epoch {possible} are not there, or may be sent twice: `{}`.",
            restore_command(pipeline, possible, true)
        ),
        (Some(_), None) => nothing_left(pipeline),
        (None, _) => format!(
            "Look into the topics. If they are empty, or messages may be sent twice, remove `_weir/{pipeline}/manifests` from the warehouse."
        ),
    };
    Error::damaged(format!("the Kafka sinks of pipeline `{pipeline}` have no record of what they committed"))
        .with_detail(format!(
            "{each} Epoch {next} was begun, and its messages may be in Kafka or not. The record (offsets of a consumer group `weir-{pipeline}-…-epochs`) has expired, was deleted, or belongs to another warehouse."
        ))
        .with_hint(hint)
}

/// `` `a` has epoch 4; `b` has epoch 2. ``
pub fn each_has(sinks: &[SinkFact]) -> String {
    let one = |sink: &SinkFact| {
        let has = match sink.held {
            Held::Nothing => "no epoch".to_owned(),
            Held::UpTo(standing) => format!("epoch {}", standing.epoch),
            Held::Unknown if sink.kind == SinkKind::Kafka => "no record".to_owned(),
            Held::Unknown => "contents that its log no longer explains".to_owned(),
        };
        match (sink.kind, sink.recorded, sink.held) {
            (SinkKind::Kafka, ..) => format!("the Kafka sinks have {has}"),
            (SinkKind::Table, Some(recorded), held) if held != Held::UpTo(recorded) => {
                format!("`{}` has {has} (RESTOREd, it had epoch {})", sink.sink, recorded.epoch)
            }
            (SinkKind::Table, ..) => format!("`{}` has {has}", sink.sink),
        }
    };
    let text = sinks.iter().map(one).collect::<Vec<_>>().join("; ");
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

/// Advice to take all sinks back to an epoch, if there is one.
fn go_back(pipeline: &str, possible: Option<Epoch>, survey: &Survey) -> String {
    let Some(epoch) = possible else { return nothing_left(pipeline) };
    let mut text = format!(
        "`{}` takes all tables, state and offsets to epoch {epoch} together; later epochs are computed again.",
        restore_command(pipeline, epoch, survey.restore_needs_sql)
    );
    if survey.facts.sinks.iter().any(|sink| sink.kind == SinkKind::Kafka) {
        text.push_str(" Messages of later epochs stay in Kafka and are sent again.");
    }
    text
}

/// Advice where no epoch can be restored.
fn nothing_left(pipeline: &str) -> String {
    format!(
        "`weir restore --epoch` finds no epoch whose manifest, state, log entries and files all exist. Bring the whole warehouse back from a backup (`weir restore --from`). To read everything again from epoch 1, remove `_weir/{pipeline}` and the pipeline's tables; Kafka sinks then send their messages again."
    )
}

/// The command that takes a pipeline back, as it is typed.
pub fn restore_command(pipeline: &str, epoch: Epoch, needs_sql: bool) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let name = match pipeline.chars().all(is_plain) {
        true => pipeline.to_owned(),
        false => format!("'{}'", pipeline.replace('\'', r"'\''")),
    };
    let file = if needs_sql { " FILE.sql" } else { "" };
    format!("weir restore --pipeline {name} --epoch {epoch}{file}")
}

fn list(sinks: &[String]) -> String {
    sinks.iter().map(|sink| format!("`{sink}`")).collect::<Vec<_>>().join(", ")
}

fn plural(sinks: &[String]) -> &'static str {
    if sinks.len() == 1 { "s" } else { "" }
}

/// Some file names, and how many more there are.
pub fn files(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_FILES).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED_FILES) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
