//! What a running process prints: whole texts for standard output or standard error, written by a thread of their own.
//!
//! Whoever prints never waits for whoever reads, and a reader that has gone away ends nothing: the queue between them is bounded, texts
//! that find no room are dropped, counted and reported in the log as soon as the reader reads again. Commands that print and end
//! (`weir query`) need none of this: there the reader sets the pace.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that may wait to be written.
const ROOM: usize = 1 << 20;

/// What a text takes beside its bytes.
const OVERHEAD: usize = 64;

/// Written at a time, so that it shows whether somebody reads.
const PIECE: usize = 16 << 10;

/// A reader that has taken nothing for this long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often dropped texts are reported while more are dropped.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How long a full pipe that refuses to wait, or somebody who does, is left alone before the next look.
const PAUSE: Duration = Duration::from_millis(5);

/// Where texts go.
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

    /// The stream apart from the standard library's own handle, whose lock is held while a write waits.
    fn open(self) -> io::Result<File> {
        let fd = match self {
            Self::Output => io::stdout().as_fd().try_clone_to_owned(),
            Self::Error => io::stderr().as_fd().try_clone_to_owned(),
        };
        fd.map(File::from)
    }
}

/// How long to wait until everything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// At most this long, and not at all for a reader that does not read.
    AtMost(Duration),
    /// Until the reader has read it or has gone away.
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
    /// What the texts that wait, or are being written, take.
    taken: usize,
    writing: bool,
    started: bool,
    /// Nobody will ever read it.
    closed: bool,
    /// Texts dropped and not yet reported.
    dropped: u64,
    /// When the reader took something last.
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

    /// Prints `text`; where there is no room, waits for it as long as somebody reads.
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

    /// Prints `text` whatever waits already: for the few last words of a process.
    pub fn print_last(&self, text: impl Into<Vec<u8>>) {
        let mut state = self.shared.lock();
        self.add(&mut state, text.into());
    }

    /// Waits until everything is written. False: it is not, and will not be waited for.
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

    /// Gives `text` back when there is no room for it.
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
    /// True when the reader has taken nothing for long though something was there.
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

    /// Writes whatever comes until nobody can read it any more.
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

    /// Writes a text piece by piece. Errors: nobody will ever read it. Other failures (a full disk) cost the rest of the text.
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
                // Whoever shares the pipe with us has made it non-blocking.
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

/// A pipe without a reader, or a terminal that is gone.
fn is_hung_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests;
