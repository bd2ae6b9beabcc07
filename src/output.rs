//! Output of a running process: whole texts for standard output or standard error, written by a thread of their own.
//!
//! Printing never waits for the reader, and a closed pipe ends nothing. The queue is bounded: texts that do not fit are
//! dropped, counted, and reported in the log as soon as the reader reads again. Commands that print and end (`weir query`)
//! need none of this: there the reader sets the pace.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Capacity of the queue in bytes.
const ROOM: usize = 1 << 20;

/// Bytes counted for a text beside its own.
const OVERHEAD: usize = 64;

/// Bytes written at a time; each such write shows that the reader reads.
const PIECE: usize = 16 << 10;

/// A reader that has taken nothing for this long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Interval between reports of dropped texts while more are dropped.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Pause before another try to write to a non-blocking pipe that is full, or to queue a text.
const PAUSE: Duration = Duration::from_millis(5);

/// The stream that texts are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Output,
    Error,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Output => "standard output",
            Self::Error => "standard error",
        }
    }

    /// A second handle of the stream: the standard library's own holds its lock while a write waits.
    fn open(self) -> io::Result<File> {
        let fd = match self {
            Self::Output => io::stdout().as_fd().try_clone_to_owned(),
            Self::Error => io::stderr().as_fd().try_clone_to_owned(),
        };
        fd.map(File::from)
    }
}

/// The time to wait until everything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// At most this long, and not at all for a reader that is stuck.
    AtMost(Duration),
    /// Until the reader has read everything or closed its end.
    Endless,
}

/// A printer for one stream; clones share it. Its thread starts with the first text.
#[derive(Debug, Clone)]
pub struct Printer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stream: Stream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of the texts that wait or are being written.
    taken: usize,
    writing: bool,
    started: bool,
    /// The reader has closed its end.
    closed: bool,
    /// Texts dropped and not yet reported.
    dropped: u64,
    /// The time at which the reader last took something.
    progress: Instant,
}

impl Printer {
    /// A printer for `stream`; nothing is opened yet.
    pub fn new(stream: Stream) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            taken: 0,
            writing: false,
            started: false,
            closed: false,
            dropped: 0,
            progress: Instant::now(),
        };
        Self { shared: Arc::new(Shared { stream, state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// Prints `text` if there is room for it; never waits.
    pub fn print(&self, text: impl Into<Vec<u8>>) {
        if self.offer(text.into()).is_err() {
            self.shared.lock().dropped += 1;
        }
    }

    /// Prints `text`; if the queue is full, waits for room unless the reader is stuck.
    pub async fn print_patiently(&self, text: impl Into<Vec<u8>>) {
        let mut text = text.into();
        while let Err(refused) = self.offer(text) {
            {
                let mut state = self.shared.lock();
                if state.is_stuck() {
                    state.dropped += 1;
                    return;
                }
            }
            text = refused;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints `text` even if the queue is full: for the last few messages of a process.
    pub fn print_last(&self, text: impl Into<Vec<u8>>) {
        let mut state = self.shared.lock();
        self.add(&mut state, text.into());
    }

    /// Waits until everything is written. Returns false if it gave up before.
    pub fn drain(&self, patience: Patience) -> bool {
        let began = Instant::now();
        let mut state = self.shared.lock();
        while !state.closed && (state.writing || !state.waiting.is_empty()) {
            if let Patience::AtMost(limit) = patience
                && (began.elapsed() >= limit || state.is_stuck())
            {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, PAUSE * 10);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Queues `text`, or returns it if it does not fit.
    fn offer(&self, text: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut state = self.shared.lock();
        let fits = state.taken == 0 || state.taken + text.len() + OVERHEAD <= ROOM;
        if fits || state.closed {
            self.add(&mut state, text);
            return Ok(());
        }
        Err(text)
    }

    fn add(&self, state: &mut State, text: Vec<u8>) {
        if state.closed {
            return;
        }
        if state.taken == 0 {
            state.progress = Instant::now();
        }
        state.taken += text.len() + OVERHEAD;
        state.waiting.push_back(text);
        if !state.started {
            state.started = true;
            // Not logged: the log is printed in the same way.
            if self.start(self.shared.stream.open()).is_err() {
                state.close();
            }
        }
        self.shared.changed.notify_all();
    }

    /// Starts the thread that writes to `out`.
    fn start(&self, out: io::Result<impl Write + Send + 'static>) -> io::Result<()> {
        let (out, shared) = (out?, Arc::clone(&self.shared));
        let name = format!("print-{}", if self.shared.stream == Stream::Output { "out" } else { "err" });
        std::thread::Builder::new().name(name).spawn(move || shared.write(out)).map(|_| ())
    }
}

impl State {
    /// True when texts wait and the reader has taken nothing for [`PATIENCE`].
    fn is_stuck(&self) -> bool {
        self.taken > 0 && self.progress.elapsed() >= PATIENCE
    }

    fn close(&mut self) {
        self.closed = true;
        self.waiting.clear();
        self.taken = 0;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes queued texts until the reader closes its end.
    fn write(&self, mut out: impl Write) {
        let mut reported = None;
        loop {
            let text = self.next();
            let written = self.write_one(&mut out, &text);
            let mut state = self.lock();
            state.writing = false;
            state.taken = state.taken.saturating_sub(text.len() + OVERHEAD);
            if written.is_err() {
                state.close();
            }
            let caught_up = state.waiting.is_empty();
            let is_time = reported.is_none_or(|at: Instant| at.elapsed() >= REPORT_EVERY);
            let dropped = if caught_up || is_time { std::mem::take(&mut state.dropped) } else { 0 };
            self.changed.notify_all();
            drop(state);
            if dropped > 0 {
                reported = Some(Instant::now());
                tracing::warn!(dropped, "{} was read too slowly: texts were dropped", self.stream.name());
            }
            if let Err(error) = written {
                tracing::warn!(%error, "{} is closed: nothing more is printed there", self.stream.name());
                return;
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(text) = state.waiting.pop_front() {
                state.writing = true;
                return text;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes a text piece by piece. Errors: the reader has closed its end. After other failures (a full disk) the rest of
    /// the text is lost.
    fn write_one(&self, out: &mut impl Write, text: &[u8]) -> io::Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            match out.write(&rest[..rest.len().min(PIECE)]) {
                Ok(0) => break,
                Ok(written) => {
                    rest = &rest[written..];
                    self.lock().progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares the pipe has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(error) if is_hung_up(&error) => return Err(error),
                Err(_) => {
                    self.lock().dropped += 1;
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A pipe without a reader, or a terminal that has closed.
fn is_hung_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests;
