use std::collections::BTreeSet;

use super::*;

const BOTH: [bool; 2] = [false, true];
const INPUTS: [Input; 3] = [Input::Readable, Input::Held, Input::Ended];
const CONTENTS: [Content; 3] = [Content::Empty, Content::Some, Content::Full];
const DUES: [Due; 3] = [Due::Never, Due::Later, Due::Now];

/// Everything that a step depends on.
type State = (Course, Seen);

fn courses() -> Vec<Course> {
    let mut all = Vec::new();
    for bits in 0..16_u8 {
        let [stopping, flush_pending, committing, outgrown] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
        all.push(Course { stopping, flush_pending, committing, outgrown });
    }
    all
}

fn sights() -> Vec<Seen> {
    let mut all = Vec::new();
    for input in INPUTS {
        for epoch in CONTENTS {
            for due in DUES {
                for (resting, follows_silence) in BOTH.into_iter().flat_map(|a| BOTH.map(|b| (a, b))) {
                    all.push(Seen { input, epoch, due, resting, follows_silence });
                }
            }
        }
    }
    all
}

/// Every combination, reachable or not.
fn states() -> impl Iterator<Item = State> {
    let sights = sights();
    courses().into_iter().flat_map(move |course| sights.clone().into_iter().map(move |seen| (course, seen)))
}

fn is_over((course, seen): State) -> bool {
    course.stopping || seen.input == Input::Ended
}

/// States that may follow, as the coordinator and the world outside bring them about. `None`: the run has finished.
fn after((course, seen): State) -> Option<Vec<State>> {
    let with = |change: &dyn Fn(&mut Course, &mut Seen)| {
        let (mut course, mut seen) = (course, seen);
        change(&mut course, &mut seen);
        (course, seen)
    };
    let emptied = |outgrown: bool| {
        with(&|course, seen| {
            course.on_closed(outgrown);
            seen.epoch = Content::Empty;
        })
    };
    let filled = || CONTENTS.into_iter().skip(1).map(|epoch| with(&|_, seen| seen.epoch = epoch));
    let wakes = match course.next(seen) {
        Step::Finish => return None,
        Step::Flush => {
            let flushed = |epoch| {
                with(&|course, seen| {
                    course.on_flushed();
                    seen.epoch = epoch;
                })
            };
            return Some(CONTENTS.into_iter().filter(|to| *to >= seen.epoch).map(flushed).collect());
        }
        Step::Close => return Some(BOTH.map(emptied).to_vec()),
        Step::Divide => return Some(vec![with(&|course, _| course.on_divided())]),
        Step::Wait(wakes) => wakes,
    };
    let mut next = Vec::new();
    if wakes.commit {
        next.push(with(&|course, _| course.on_committed()));
    }
    if wakes.stop {
        next.push(with(&|course, _| course.on_stop()));
    }
    if wakes.due {
        next.push(with(&|_, seen| seen.due = Due::Now));
    }
    if wakes.input {
        next.extend(filled());
        next.extend(filled().map(|(course, seen)| (course, Seen { resting: true, ..seen })));
        next.extend([Input::Ended, Input::Held].map(|input| with(&|_, seen| seen.input = input)));
    }
    if wakes.rest {
        next.push(with(&|_, seen| seen.resting = false));
    }
    if wakes.silence {
        next.extend(filled());
        next.push(with(&|_, seen| seen.input = Input::Readable));
    }
    Some(next)
}

#[test]
fn a_wait_always_awaits_something_and_the_shutdown_signal_until_it_has_come() {
    for (course, seen) in states() {
        if let Step::Wait(wakes) = course.next(seen) {
            assert!(!wakes.is_none(), "{course:?} {seen:?}");
            assert_eq!(wakes.stop, !course.stopping, "{course:?} {seen:?}");
            assert_eq!(wakes.commit, course.committing, "{course:?} {seen:?}");
        }
    }
}

#[test]
fn a_run_finishes_only_when_it_is_over_and_everything_is_committed() {
    for (course, seen) in states() {
        if course.next(seen) == Step::Finish {
            assert!(
                is_over((course, seen)) && !course.committing && seen.epoch == Content::Empty,
                "{course:?} {seen:?}"
            );
            assert!(course.stopping || !course.flush_pending, "{course:?} {seen:?}");
        }
    }
}

#[test]
fn an_epoch_closes_only_with_something_in_it_and_while_no_other_commits() {
    for (course, seen) in states() {
        if course.next(seen) == Step::Close {
            assert!(!course.committing && seen.epoch != Content::Empty, "{course:?} {seen:?}");
        }
    }
}

#[test]
fn nothing_fills_an_epoch_that_is_full_or_over_or_whose_state_is_to_be_divided() {
    for (course, seen) in states() {
        let step = course.next(seen);
        let fills = matches!(step, Step::Flush) || matches!(step, Step::Wait(wakes) if wakes.input || wakes.silence);
        let closed = seen.epoch == Content::Full || course.stopping;
        assert!(!(fills && closed), "{course:?} {seen:?}: {step:?}");
        let reads = matches!(step, Step::Wait(wakes) if wakes.input || wakes.silence);
        assert!(!(reads && (course.outgrown || is_over((course, seen)))), "{course:?} {seen:?}: {step:?}");
    }
}

#[test]
fn state_is_divided_only_between_a_commit_and_the_next_row() {
    for (course, seen) in states() {
        if course.next(seen) == Step::Divide {
            assert!(course.outgrown && !course.committing && !is_over((course, seen)), "{course:?} {seen:?}");
        }
    }
    // In a run that comes to it, nothing has been read since the snapshot.
    for (course, seen) in reachable() {
        if course.outgrown && !is_over((course, seen)) {
            assert_eq!(seen.epoch, Content::Empty, "{course:?} {seen:?}");
        }
    }
}

#[test]
fn an_open_run_with_nothing_under_way_reads_or_rests_or_waits_for_its_trigger() {
    for (course, seen) in reachable() {
        let Step::Wait(wakes) = course.next(seen) else { continue };
        let waits_for_others = seen.input == Input::Held || wakes.commit;
        assert!(waits_for_others || wakes.input || wakes.rest || wakes.due, "{course:?} {seen:?}");
    }
}

#[test]
fn a_due_epoch_closes_as_soon_as_no_other_commits() {
    for (course, seen) in states() {
        let due = seen.epoch == Content::Full || seen.epoch == Content::Some && seen.due == Due::Now;
        if due && !course.committing && !course.outgrown && !is_over((course, seen)) {
            assert_eq!(course.next(seen), Step::Close, "{course:?} {seen:?}");
        }
    }
}

/// More steps than any path without repetition has that leads to the end.
const STEPS: usize = 12;

#[test]
fn from_every_state_a_run_that_is_over_finishes_whatever_comes_in_which_order() {
    for start in states().filter(|state| is_over(*state)) {
        let mut states = vec![start];
        for _ in 0..STEPS {
            states = states.into_iter().filter_map(after).flatten().collect();
            states.sort_unstable_by_key(|state| key(*state));
            states.dedup();
        }
        assert!(states.is_empty(), "{start:?} still goes on as {states:?}");
    }
}

#[test]
fn asked_to_stop_a_run_does_nothing_but_commit_what_is_open() {
    for (course, seen) in states().filter(|(course, _)| course.stopping) {
        let (mut course, mut seen) = (course, seen);
        let mut closed = 0;
        loop {
            match course.next(seen) {
                Step::Finish => break,
                Step::Close => {
                    closed += 1;
                    course.on_closed(true);
                    seen.epoch = Content::Empty;
                }
                Step::Wait(wakes) => {
                    assert_eq!(wakes, Wakes { commit: true, ..Wakes::default() });
                    course.on_committed();
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(closed <= 1);
    }
}

/// States that a run comes to from its beginning.
fn reachable() -> Vec<State> {
    let mut found: Vec<State> = Vec::new();
    let mut known = BTreeSet::new();
    let mut open: Vec<State> = Vec::new();
    for flush in BOTH {
        let begins = sights().into_iter().filter(|seen| seen.epoch == Content::Empty && !seen.resting);
        open.extend(begins.map(|seen| (Course::new(flush), seen)));
    }
    while let Some(state) = open.pop() {
        if known.insert(key(state)) {
            found.push(state);
            open.extend(after(state).unwrap_or_default());
        }
    }
    assert!(found.len() > 100, "only {} states", found.len());
    found
}

/// A number for each state.
fn key((course, seen): State) -> u32 {
    let bits =
        [course.stopping, course.flush_pending, course.committing, course.outgrown, seen.resting, seen.follows_silence];
    let flags = bits.iter().fold(0, |sum, bit| sum * 2 + u32::from(*bit));
    ((flags * 3 + seen.input as u32) * 3 + seen.epoch as u32) * 3 + seen.due as u32
}
