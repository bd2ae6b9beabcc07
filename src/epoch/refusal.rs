//! What a start says when it stops: what each sink has, and what mends it.

use super::protocol::{Held, Refusal, SinkFact, SinkKind};
use super::survey::Survey;
use crate::error::Error;
use crate::state::{Epoch, Standing};

/// Files that a message names before it counts the rest.
const NAMED_FILES: usize = 5;

/// The error of a refused start.
pub fn refused(pipeline: &str, refusal: &Refusal, survey: &Survey) -> Error {
    let sinks = &survey.facts.sinks;
    let each = each_has(sinks);
    match refusal {
        Refusal::Conflict { epoch, sinks: [a, b] } => {
            Error::damaged(format!("`{a}` and `{b}` have epoch {epoch} of pipeline `{pipeline}` from two different runs"))
                .with_detail(format!("One of them was written by a copy of this warehouse, or copied from one. {each}"))
                .with_hint(go_back(pipeline, epoch.0.checked_sub(1), sinks))
        }
        Refusal::HalfDone { newest, sinks: behind } => half_done(pipeline, *newest, behind, survey),
        Refusal::PutBack { newest, sinks: behind } => {
            let to = restorable(behind, sinks);
            Error::damaged(format!("{} no longer hold{} what pipeline `{pipeline}` has committed", list(behind), plural(behind)))
                .with_detail(format!(
                    "Epoch {} is the newest. {each} A table was restored to an older version, or its folder was removed or replaced by an older copy.",
                    newest.epoch
                ))
                .with_hint(go_back(pipeline, to, sinks))
        }
        Refusal::FilesGone { newest, sinks: behind } => {
            let to = restorable(behind, sinks);
            Error::damaged(format!("files of epoch {} of pipeline `{pipeline}` are gone from {}", newest.epoch, list(behind)))
                .with_detail(format!("{each} The manifest names {}.", files(&survey.missing)))
                .with_hint(go_back(pipeline, to, sinks))
        }
        Refusal::KafkaForgot { newest } => kafka_forgot(pipeline, *newest, &each),
        Refusal::StateGone { newest } => {
            Error::damaged(format!("the state of pipeline `{pipeline}` after epoch {} is gone", newest.epoch))
                .with_detail(format!("All sinks were taken back to this epoch. {each}"))
                .with_hint(format!("Restore the warehouse's `_weir/{pipeline}` folder as it was then, or take all back to another epoch: `{}`.", command(pipeline, "N")))
        }
        Refusal::Lacking { newest, joining, vanished } => lacking(pipeline, *newest, (joining, vanished), &each),
        Refusal::Vanished { manifest } => {
            Error::damaged(format!("no table of pipeline `{pipeline}` holds an epoch, though epoch {manifest} was begun"))
                .with_detail(format!("{each} The tables were removed, or restored to before their first epoch."))
                .with_hint(format!("Bring the tables back from a backup. To begin again with epoch 1, remove `_weir/{pipeline}` from the warehouse, and the tables."))
        }
        Refusal::Restoring { epoch } => {
            Error::damaged(format!("a restore of pipeline `{pipeline}` to epoch {epoch} did not finish"))
                .with_detail(each)
                .with_hint(format!("Run `{}` again.", command(pipeline, &epoch.to_string())))
        }
    }
}

/// A table that had epochs and does not exist.
pub fn gone(pipeline: &str, table: &str, location: &str, had: Standing) -> Error {
    Error::damaged(format!("table `{table}` of pipeline `{pipeline}` does not exist at `{location}`"))
        .with_detail(format!("It had epoch {}; its folder was removed or renamed.", had.epoch))
        .with_hint(format!(
            "Bring the folder back. To begin an empty table where the pipeline is now, declare it under another name or LOCATION. (`{}` takes back tables that exist.)",
            command(pipeline, "N")
        ))
}

fn half_done(pipeline: &str, newest: Standing, behind: &[String], survey: &Survey) -> Error {
    let sinks = &survey.facts.sinks;
    let Standing { epoch, manifest } = newest;
    let to = restorable(behind, sinks).filter(|to| *to < epoch.0).or(epoch.0.checked_sub(1));
    Error::damaged(format!("manifest {manifest} of epoch {epoch} of pipeline `{pipeline}` is missing"))
        .with_detail(format!(
            "{each} Without the manifest {} cannot be brought up to epoch {epoch}, and computing it again would repeat what other sinks have. It was removed, or written by a copy of this warehouse.",
            list(behind),
            each = each_has(sinks),
        ))
        .with_hint(format!("Restore the warehouse's `_weir` folder if you can. {}", go_back(pipeline, to, sinks)))
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

fn kafka_forgot(pipeline: &str, newest: Option<Standing>, each: &str) -> Error {
    let next = newest.map_or(Epoch(1), |newest| newest.epoch.next());
    let hint = match newest {
        Some(newest) => format!(
            "Look at the end of the topics. If the messages of epoch {next} are not there, or may be sent twice: `{} FILE.sql`.",
            command(pipeline, &newest.epoch.to_string())
        ),
        None => format!(
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

/// The newest epoch to which all of these sinks can be taken back: what their logs still hold.
fn restorable(behind: &[String], sinks: &[SinkFact]) -> Option<u64> {
    let tables = sinks.iter().filter(|sink| sink.kind == SinkKind::Table && behind.contains(&sink.sink));
    tables.map(|sink| sink.recorded.map(|standing| standing.epoch.0)).min().flatten()
}

/// Advice to take all sinks back to epoch `to`, if there is one.
fn go_back(pipeline: &str, to: Option<u64>, sinks: &[SinkFact]) -> String {
    let to = to.filter(|epoch| *epoch > 0);
    let Some(epoch) = to else {
        return format!(
            "Bring the folders of these tables back from a backup that is not older than the other tables. If another writer has dropped their `txn` actions, `{}` records the newest epoch again.",
            command(pipeline, "N")
        );
    };
    let with_kafka = sinks.iter().any(|sink| sink.kind == SinkKind::Kafka);
    let file = if with_kafka { " FILE.sql" } else { "" };
    let mut text = format!(
        "`{}{file}` takes all tables, state and offsets to epoch {epoch} together; later epochs are computed again.",
        command(pipeline, &epoch.to_string())
    );
    if with_kafka {
        text.push_str(" Messages of later epochs stay in Kafka and are sent again.");
    }
    text
}

fn command(pipeline: &str, epoch: &str) -> String {
    format!("weir restore --pipeline {pipeline} --epoch {epoch}")
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
