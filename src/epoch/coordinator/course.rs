//! The next step of a running pipeline: one pure function over everything that the decision depends on. No I/O, no clock.
//!
//! Tested over every combination: a wait always awaits something, and the shutdown signal until it has come; an epoch closes only while
//! no other commits; nothing is read once the run is over, while an epoch is full or while state is about to be divided; a run finishes
//! with nothing uncommitted. From every state a run whose input has ended, or that was asked to stop, finishes.

/// State that the coordinator carries from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Course {
    stopping: bool,
    /// Rows that wait for time are emitted once, after the end of all input.
    flush_pending: bool,
    committing: bool,
    /// State has outgrown its memory: it is divided as soon as the commit under way has made it durable.
    outgrown: bool,
}

/// Facts that the coordinator observes before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    pub input: Input,
    pub epoch: Content,
    pub due: Due,
    /// Memory is short, so nothing is read for a moment.
    pub resting: bool,
    /// Operators wait for a time that silent partitions may hold back.
    pub follows_silence: bool,
}

/// All sources together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// At least one may be read.
    Readable,
    /// None may be read now.
    Held,
    /// All have been read to their end.
    Ended,
}

/// The open epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Nothing to commit.
    Empty,
    /// Something to commit, and room for more.
    Some,
    /// It takes no more before it is committed.
    Full,
}

/// The open epoch's trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Due {
    /// The epoch ends with the input, or when it is full.
    Never,
    Later,
    Now,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The run is over and everything is committed.
    Finish,
    /// Emit what waits for time.
    Flush,
    /// Close the open epoch and begin its commit.
    Close,
    /// Divide state that has outgrown its memory.
    Divide,
    /// Wait for the first of these.
    Wait(Wakes),
}

/// An event that the loop waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wakes {
    /// The end of the commit under way.
    pub commit: bool,
    /// The shutdown signal.
    pub stop: bool,
    /// The trigger of the open epoch.
    pub due: bool,
    /// A source's next event.
    pub input: bool,
    /// The end of the rest.
    pub rest: bool,
    /// The next look for silent partitions.
    pub silence: bool,
}

impl Wakes {
    /// True when nothing would ever end the wait.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Course {
    /// The beginning of a run; `flush_at_end` as the pipeline says.
    pub fn new(flush_at_end: bool) -> Self {
        Self { stopping: false, flush_pending: flush_at_end, committing: false, outgrown: false }
    }

    /// The shutdown signal has come.
    pub fn is_stopping(self) -> bool {
        self.stopping
    }

    /// Notes the shutdown signal.
    pub fn on_stop(&mut self) {
        self.stopping = true;
    }

    /// Notes that what waits for time was emitted.
    pub fn on_flushed(&mut self) {
        self.flush_pending = false;
    }

    /// Notes that an epoch was closed and its commit has begun; `outgrown`: then state is to be divided.
    pub fn on_closed(&mut self, outgrown: bool) {
        (self.committing, self.outgrown) = (true, outgrown);
    }

    /// Notes that the commit is through.
    pub fn on_committed(&mut self) {
        self.committing = false;
    }

    /// Notes that state was divided.
    pub fn on_divided(&mut self) {
        self.outgrown = false;
    }

    /// Decides the next step.
    pub fn next(self, seen: Seen) -> Step {
        if self.stopping || seen.input == Input::Ended {
            return self.towards_the_end(seen);
        }
        if self.outgrown {
            // No row may move state between the snapshot and its division.
            let wakes = Wakes { commit: true, stop: true, ..Wakes::default() };
            return if self.committing { Step::Wait(wakes) } else { Step::Divide };
        }
        let full = seen.epoch == Content::Full;
        if !self.committing && (full || seen.epoch == Content::Some && seen.due == Due::Now) {
            return Step::Close;
        }
        let reads = seen.input == Input::Readable && !full && !seen.resting;
        Step::Wait(Wakes {
            commit: self.committing,
            stop: true,
            due: !self.committing && seen.epoch == Content::Some && seen.due == Due::Later,
            input: reads,
            rest: seen.resting && !full,
            silence: seen.follows_silence && !full && !seen.resting,
        })
    }

    /// Nothing is read any more: state need not fit memory, what is open is committed.
    fn towards_the_end(self, seen: Seen) -> Step {
        let flushes = self.flush_pending && !self.stopping;
        if flushes && seen.epoch != Content::Full {
            Step::Flush
        } else if self.committing {
            Step::Wait(Wakes { commit: true, stop: !self.stopping, ..Wakes::default() })
        } else if seen.epoch == Content::Empty {
            Step::Finish
        } else {
            Step::Close
        }
    }
}

#[cfg(test)]
mod tests;
