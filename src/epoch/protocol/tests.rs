use proptest::prelude::*;

use super::*;
use crate::state::ManifestId;

fn standing(epoch: u64) -> Standing {
    Standing { epoch: Epoch(epoch), manifest: ManifestId(epoch as i64 * 10) }
}

fn held(epoch: u64) -> Held {
    if epoch == 0 { Held::Nothing } else { Held::UpTo(standing(epoch)) }
}

fn before(epoch: u64) -> Before {
    Before::Known((epoch > 0).then(|| standing(epoch)))
}

/// A sink that holds `epoch` and says so.
fn sink(name: &str, kind: SinkKind, epoch: u64, role: Role) -> SinkFact {
    SinkFact {
        sink: name.to_owned(),
        kind,
        held: held(epoch),
        recorded: (epoch > 0).then(|| standing(epoch)),
        role,
        files_exist: true,
        log_is_behind: false,
    }
}

fn table(name: &str, epoch: u64, role: Role) -> SinkFact {
    sink(name, SinkKind::Table, epoch, role)
}

fn kafka(held: Held, role: Role) -> SinkFact {
    SinkFact { held, recorded: None, ..sink("kafka", SinkKind::Kafka, 0, role) }
}

fn facts(sinks: Vec<SinkFact>) -> Facts {
    let newest_manifest = newest(&sinks).map(|standing| standing.epoch);
    Facts {
        sinks,
        manifest_exists: true,
        state_exists: true,
        newest_manifest,
        next_is_in_kafka: false,
        restoring: None,
        vanished: Vec::new(),
        may_lack: false,
    }
}

const TAKES_PART: Role = Role::TakesPart(Before::Known(Some(Standing { epoch: Epoch(6), manifest: ManifestId(60) })));

fn refusal(facts: &Facts) -> Refusal {
    match decide(facts) {
        Outcome::Refuse(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn empty_sinks_begin_at_the_first_epoch() {
    assert_eq!(
        decide(&facts(vec![
            table("a", 0, Role::Joins { moved: false }),
            kafka(Held::Unknown, Role::Joins { moved: false })
        ])),
        Outcome::Begin
    );
    assert_eq!(decide(&facts(Vec::new())), Outcome::Begin);
}

#[test]
fn a_first_manifest_that_no_sink_names_begins_again() {
    let mut facts = facts(vec![table("a", 0, Role::Joins { moved: false })]);
    facts.newest_manifest = Some(Epoch(1));
    assert_eq!(decide(&facts), Outcome::Begin);
}

#[test]
fn empty_sinks_of_a_pipeline_that_had_committed_are_refused() {
    let mut facts = facts(vec![table("a", 0, Role::Joins { moved: false })]);
    facts.newest_manifest = Some(Epoch(2));
    assert_eq!(refusal(&facts), Refusal::Vanished { manifest: Epoch(2) });
}

#[test]
fn tables_that_were_all_restored_to_before_the_first_epoch_are_refused() {
    let mut facts = facts(vec![table("a", 4, Role::Joins { moved: false })]);
    facts.sinks[0].held = Held::Nothing;
    assert_eq!(refusal(&facts), Refusal::Vanished { manifest: Epoch(4) });
}

#[test]
fn the_newest_epoch_of_any_sink_is_rolled_forward() {
    let mut facts = facts(vec![kafka(held(7), TAKES_PART), table("a", 6, TAKES_PART), table("b", 6, TAKES_PART)]);
    let owed = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(decide(&facts), Outcome::RollForward { after: standing(7), owed });
    facts.sinks[1] = table("a", 7, TAKES_PART);
    assert_eq!(decide(&facts), Outcome::RollForward { after: standing(7), owed: vec!["b".to_owned()] });
}

#[test]
fn a_first_commit_to_a_table_is_rolled_forward_into_an_empty_one() {
    let facts = facts(vec![table("a", 7, TAKES_PART), table("b", 0, Role::TakesPart(before(0)))]);
    assert_eq!(decide(&facts), Outcome::RollForward { after: standing(7), owed: vec!["b".to_owned()] });
}

#[test]
fn a_table_that_got_no_rows_stays_behind_and_the_pipeline_resumes() {
    let facts = facts(vec![table("a", 7, TAKES_PART), table("b", 3, Role::Aside(before(3)))]);
    assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
}

#[test]
fn a_new_table_and_one_that_was_moved_are_taken_as_they_are() {
    let joins = |moved| Role::Joins { moved };
    let sinks = [table("a", 7, TAKES_PART), table("new", 0, joins(false)), table("moved", 2, joins(true))];
    assert_eq!(decide(&facts(sinks.to_vec())), Outcome::Resume { after: standing(7) });
}

#[test]
fn a_table_that_joins_without_later_epochs_and_one_that_vanished_are_refused_unless_the_user_takes_it() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 2, Role::Joins { moved: false })]);
    let newest = standing(7);
    let joining = vec!["b".to_owned()];
    assert_eq!(refusal(&facts), Refusal::Lacking { newest, joining: joining.clone(), vanished: Vec::new() });
    facts.vanished = vec!["c".to_owned()];
    assert_eq!(refusal(&facts), Refusal::Lacking { newest, joining, vanished: facts.vanished.clone() });
    facts.sinks.pop();
    assert_eq!(refusal(&facts), Refusal::Lacking { newest, joining: Vec::new(), vanished: facts.vanished.clone() });
    facts.may_lack = true;
    assert_eq!(decide(&facts), Outcome::Resume { after: newest });
}

#[test]
fn a_table_that_the_sql_no_longer_names_shows_where_the_pipeline_is() {
    let new = table("new", 0, Role::Joins { moved: false });
    let letters = table("letters", 2, Role::Aside(before(2)));
    let mut facts = facts(vec![new, letters, table("old", 7, TAKES_PART)]);
    assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
    facts.sinks.insert(0, table("part", 6, TAKES_PART));
    assert_eq!(decide(&facts), Outcome::RollForward { after: standing(7), owed: vec!["part".to_owned()] });
    // One that an earlier edit has dropped may hold anything.
    facts.sinks[0] = table("a", 7, TAKES_PART);
    for epoch in [0, 3] {
        facts.sinks[3] = table("old", epoch, Role::Left);
        assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
    }
    (facts.sinks[3].held, facts.sinks[3].recorded) = (Held::Unknown, Some(standing(3)));
    assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
    facts.sinks.truncate(2);
    facts.sinks.push(SinkFact { recorded: Some(standing(1)), ..table("old", 0, Role::Left) });
    (facts.sinks[0], facts.sinks[1]) = (table("a", 0, Role::Left), table("letters", 0, Role::Left));
    assert_eq!(refusal(&facts), Refusal::Vanished { manifest: Epoch(7) });
}

#[test]
fn manifests_of_the_two_newest_epochs_name_every_table_that_may_be_ahead() {
    let listed: Vec<Standing> = [(4, 1), (6, 2), (6, 3), (7, 5)]
        .map(|(epoch, manifest)| Standing { epoch: Epoch(epoch), manifest: ManifestId(manifest) })
        .to_vec();
    assert_eq!(recent(&listed), [listed[3], listed[2], listed[1]]);
    let many: Vec<Standing> = (0..99).map(|id| Standing { epoch: Epoch(1), manifest: ManifestId(id) }).collect();
    assert_eq!(recent(&many).len(), MANIFESTS_OF_AN_EPOCH);
}

#[test]
fn one_epoch_under_two_manifests_is_a_conflict() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 7, TAKES_PART)]);
    facts.sinks[1].held = Held::UpTo(Standing { epoch: Epoch(7), manifest: ManifestId(71) });
    assert!(matches!(refusal(&facts), Refusal::Conflict { epoch: Epoch(7), .. }));
}

#[test]
fn without_the_manifest_an_epoch_that_is_half_done_is_refused() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 6, TAKES_PART)]);
    facts.manifest_exists = false;
    assert_eq!(refusal(&facts), Refusal::HalfDone { newest: standing(7), sinks: vec!["b".to_owned()] });
}

#[test]
fn without_the_manifest_an_epoch_that_only_kafka_has_is_refused() {
    let mut facts = facts(vec![kafka(held(7), Role::NotRecorded), table("a", 6, Role::NotRecorded)]);
    facts.manifest_exists = false;
    assert!(matches!(refusal(&facts), Refusal::HalfDone { .. }));
}

#[test]
fn without_the_manifest_sinks_that_a_commit_shows_to_be_complete_resume_without_state() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 3, Role::Aside(before(3)))]);
    facts.manifest_exists = false;
    assert_eq!(decide(&facts), Outcome::ResumeWithoutState { after: standing(7) });
}

#[test]
fn without_manifest_and_commit_a_table_that_is_behind_proves_nothing() {
    let mut facts = facts(vec![table("a", 7, Role::NotRecorded), table("b", 3, Role::NotRecorded)]);
    facts.manifest_exists = false;
    assert_eq!(refusal(&facts), Refusal::HalfDone { newest: standing(7), sinks: vec!["b".to_owned()] });
    facts.sinks[1] = table("b", 7, Role::NotRecorded);
    assert_eq!(decide(&facts), Outcome::ResumeWithoutState { after: standing(7) });
}

#[test]
fn without_the_manifest_kafka_without_a_record_proves_nothing() {
    let mut facts = facts(vec![kafka(Held::Unknown, TAKES_PART), table("a", 7, TAKES_PART)]);
    facts.manifest_exists = false;
    assert!(matches!(refusal(&facts), Refusal::HalfDone { .. }));
}

#[test]
fn kafka_that_forgot_is_complete_when_no_later_epoch_was_begun() {
    let mut facts = facts(vec![kafka(Held::Unknown, TAKES_PART), table("a", 7, TAKES_PART)]);
    assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
    facts.next_is_in_kafka = true;
    assert_eq!(refusal(&facts), Refusal::KafkaForgot { newest: Some(standing(7)) });
}

#[test]
fn kafka_that_forgot_the_first_epoch_is_refused() {
    let mut facts =
        facts(vec![kafka(Held::Unknown, Role::Joins { moved: false }), table("a", 0, Role::Joins { moved: false })]);
    (facts.newest_manifest, facts.next_is_in_kafka) = (Some(Epoch(1)), true);
    assert_eq!(refusal(&facts), Refusal::KafkaForgot { newest: None });
    facts.sinks[0].held = Held::Nothing;
    assert_eq!(decide(&facts), Outcome::Begin);
}

#[test]
fn kafka_behind_the_tables_is_refused() {
    let facts = facts(vec![kafka(held(6), TAKES_PART), table("a", 7, TAKES_PART)]);
    assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["kafka".to_owned()] });
}

#[test]
fn a_table_that_lacks_the_predecessor_of_the_newest_epoch_is_refused() {
    for epoch in [0, 4] {
        let facts = facts(vec![table("a", 7, TAKES_PART), table("b", epoch, TAKES_PART)]);
        assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["b".to_owned()] });
    }
}

#[test]
fn a_table_that_lost_an_epoch_before_the_newest_is_refused_though_it_is_owed_nothing() {
    let facts = facts(vec![table("a", 7, TAKES_PART), table("b", 2, Role::Aside(before(5)))]);
    assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["b".to_owned()] });
}

#[test]
fn one_table_that_was_restored_to_the_predecessor_is_not_rolled_forward() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 6, TAKES_PART)]);
    facts.sinks[1].recorded = Some(standing(7));
    assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["b".to_owned()] });
}

#[test]
fn a_table_that_was_restored_to_an_unknown_version_is_refused() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 7, TAKES_PART)]);
    facts.sinks[1].held = Held::Unknown;
    assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["b".to_owned()] });
}

#[test]
fn tables_that_were_all_restored_to_one_epoch_are_taken_back_with_its_state() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 3, Role::Aside(before(3)))]);
    facts.sinks[0].recorded = Some(standing(9));
    facts.newest_manifest = Some(Epoch(9));
    assert_eq!(decide(&facts), Outcome::TakeBack { after: standing(7) });
    facts.state_exists = false;
    assert_eq!(refusal(&facts), Refusal::StateGone { newest: standing(7) });
}

#[test]
fn folders_that_were_all_copied_back_to_one_epoch_are_taken_back() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 7, TAKES_PART)]);
    facts.newest_manifest = Some(Epoch(9));
    assert_eq!(decide(&facts), Outcome::TakeBack { after: standing(7) });
}

#[test]
fn a_manifest_of_the_next_epoch_alone_is_an_epoch_that_was_never_committed() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 7, TAKES_PART)]);
    facts.newest_manifest = Some(Epoch(8));
    assert_eq!(decide(&facts), Outcome::Resume { after: standing(7) });
}

#[test]
fn nothing_is_rolled_forward_without_its_files_or_into_a_shorter_log() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART), table("b", 6, TAKES_PART)]);
    facts.sinks[1].files_exist = false;
    assert_eq!(refusal(&facts), Refusal::FilesGone { newest: standing(7), sinks: vec!["b".to_owned()] });
    facts.sinks[1].log_is_behind = true;
    assert_eq!(refusal(&facts), Refusal::PutBack { newest: standing(7), sinks: vec!["b".to_owned()] });
}

#[test]
fn a_restore_that_did_not_finish_comes_first() {
    let mut facts = facts(vec![table("a", 7, TAKES_PART)]);
    facts.restoring = Some(Epoch(3));
    assert_eq!(refusal(&facts), Refusal::Restoring { epoch: Epoch(3) });
}

#[test]
fn a_manifest_of_an_older_version_rolls_forward_what_it_names() {
    let part = Role::TakesPart(Before::NotRecorded);
    let aside = Role::Aside(Before::NotRecorded);
    let facts = facts(vec![table("a", 7, part), table("b", 6, part), table("c", 2, aside)]);
    assert_eq!(decide(&facts), Outcome::RollForward { after: standing(7), owed: vec!["b".to_owned()] });
}

/// Epochs are few, so that facts agree and disagree often. Odd manifests are of other runs.
fn any_standing() -> impl Strategy<Value = Standing> {
    (1_u64..4, prop::bool::weighted(0.1)).prop_map(|(epoch, other)| Standing {
        manifest: ManifestId(standing(epoch).manifest.0 + i64::from(other)),
        ..standing(epoch)
    })
}

fn any_before() -> impl Strategy<Value = Before> {
    prop_oneof![9 => prop::option::of(any_standing()).prop_map(Before::Known), 1 => Just(Before::NotRecorded)]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![
        1 => prop::bool::ANY.prop_map(|moved| Role::Joins { moved }),
        4 => any_before().prop_map(Role::TakesPart),
        3 => any_before().prop_map(Role::Aside),
        1 => Just(Role::Left),
        1 => Just(Role::NotRecorded),
    ]
}

fn any_sink() -> impl Strategy<Value = SinkFact> {
    let held = prop_oneof![
        2 => Just(Held::Nothing),
        8 => any_standing().prop_map(Held::UpTo),
        1 => Just(Held::Unknown),
    ];
    let recorded = prop::option::weighted(0.2, prop::option::of(any_standing()));
    (prop::bool::weighted(0.2), held, recorded, any_role(), prop::bool::weighted(0.9), prop::bool::weighted(0.1))
        .prop_map(|(is_kafka, held, recorded, role, files_exist, log_is_behind)| {
            let own = match held {
                Held::UpTo(standing) => Some(standing),
                Held::Nothing | Held::Unknown => None,
            };
            let role = if is_kafka && role == Role::Left { Role::Joins { moved: false } } else { role };
            let (kind, recorded) = match is_kafka {
                true => (SinkKind::Kafka, own),
                false => (SinkKind::Table, recorded.unwrap_or(own)),
            };
            SinkFact { sink: format!("{kind:?}"), kind, held, recorded, role, files_exist, log_is_behind }
        })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let often = || prop::bool::weighted(0.8);
    let newest_manifest = prop::option::of((0_u64..6).prop_map(Epoch));
    let restoring = prop::option::weighted(0.02, Just(Epoch(1)));
    (prop::collection::vec(any_sink(), 0..4), often(), often(), newest_manifest, prop::bool::weighted(0.2), restoring)
        .prop_map(|(mut sinks, manifest_exists, state_exists, newest_manifest, next_is_in_kafka, restoring)| {
            for (index, sink) in sinks.iter_mut().enumerate() {
                sink.sink = format!("{index}");
            }
            let (vanished, may_lack) = (Vec::new(), false);
            Facts {
                sinks,
                manifest_exists,
                state_exists,
                newest_manifest,
                next_is_in_kafka,
                restoring,
                vanished,
                may_lack,
            }
        })
}

/// Epoch that every sink must hold once the pipeline may continue after `after`; `None` if nothing says so.
fn expected(sink: &SinkFact, after: Standing) -> Option<Option<Standing>> {
    match sink.role {
        Role::TakesPart(_) => Some(Some(after)),
        Role::Aside(Before::Known(before)) => Some(before),
        Role::Aside(Before::NotRecorded) | Role::Joins { .. } | Role::Left | Role::NotRecorded => None,
    }
}

fn epoch_of(held: Held) -> Option<u64> {
    match held {
        Held::Nothing => Some(0),
        Held::UpTo(standing) => Some(standing.epoch.0),
        Held::Unknown => None,
    }
}

/// Checks what the module promises of an outcome.
fn keeps_its_promises(facts: &Facts) -> Result<(), TestCaseError> {
    let (after, owed) = match decide(facts) {
        Outcome::Refuse(_) => return Ok(()),
        Outcome::Begin => (None, Vec::new()),
        Outcome::RollForward { after, owed } => (Some(after), owed),
        Outcome::Resume { after } | Outcome::TakeBack { after } | Outcome::ResumeWithoutState { after } => {
            (Some(after), Vec::new())
        }
    };
    let computed_next = after.map_or(1, |after| after.epoch.0 + 1);
    prop_assert!(facts.restoring.is_none());
    for sink in &facts.sinks {
        let rolls = owed.contains(&sink.sink);
        // Never: a sink has an epoch, and it is computed again.
        match epoch_of(sink.held) {
            Some(epoch) => prop_assert!(epoch < computed_next, "{sink:?}"),
            None if sink.role == Role::Left => prop_assert!(after.is_some()),
            None => prop_assert!(sink.kind == SinkKind::Kafka && !facts.next_is_in_kafka, "{sink:?}"),
        }
        // Never: an epoch is lost.
        let Some(after) = after else {
            prop_assert!(sink.recorded.is_none() && facts.newest_manifest.is_none_or(|epoch| epoch.0 <= 1));
            continue;
        };
        let holds = match sink.held {
            Held::UpTo(standing) => Some(standing),
            Held::Nothing => None,
            Held::Unknown => continue,
        };
        let holds = if rolls { Some(after) } else { holds };
        if let Some(expected) = expected(sink, after).filter(|_| holds != Some(after)) {
            prop_assert_eq!(holds, expected, "{:?}", sink);
        }
        let joined = matches!(sink.role, Role::Joins { moved: false }) && sink.kind == SinkKind::Table;
        prop_assert!(!joined || holds.is_none_or(|holds| holds == after), "it lacks epochs: {:?}", sink);
        let same_epoch =
            sink.role == Role::Left || holds.is_none_or(|holds| holds.epoch != after.epoch || holds == after);
        prop_assert!(same_epoch, "two runs: {:?}", sink);
        // Never: a commit into a table that lacks the epoch before in which it took part.
        if rolls {
            prop_assert!(
                sink.kind == SinkKind::Table && sink.files_exist && !sink.log_is_behind && facts.manifest_exists
            );
            prop_assert_eq!(sink.held, sink.recorded.map_or(Held::Nothing, Held::UpTo), "{:?}", sink);
            if let Role::TakesPart(Before::Known(before)) = sink.role {
                prop_assert_eq!(sink.recorded, before, "{:?}", sink);
            }
        }
    }
    // Later epochs had been committed: then everything that depends on them is given up, knowingly.
    let later = facts.newest_manifest.is_some_and(|epoch| epoch.0 > computed_next);
    if later && facts.manifest_exists {
        let taken_back = matches!(decide(facts), Outcome::TakeBack { .. });
        prop_assert!(taken_back && facts.state_exists);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_epoch_is_lost_repeated_or_committed_out_of_order_whatever_the_facts(facts in any_facts()) {
        keeps_its_promises(&facts)?;
    }
}

mod edits;
mod histories;
