//! The environment of the engine: time, randomness, failpoints, object stores. All code asks an [`Env`] for them, so that
//! the same seed gives the same run and tests can move the clock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::error::{Error, Result};
use crate::output::{Printer, Stream};

/// The environment of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Env {
    clock: Clock,
    random: Arc<AtomicU64>,
    failpoints: Arc<Mutex<BTreeMap<String, Action>>>,
    stores: Stores,
    output: Printer,
}

/// Step of the state of [`splitmix64`].
const SPLITMIX_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The next number of a splitmix64 stream (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): the
/// same on every machine and in every version.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(SPLITMIX_STEP);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Wraps every object store that is opened, e.g. to inject faults.
pub type StoreWrapper = Arc<dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync>;

/// Guarantee for an acknowledged write to a local file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Files and their directories are synced before a write is acknowledged.
    #[default]
    PowerCut,
    /// Left to the operating system: survives the process, not the machine. For measurements.
    Process,
}

/// Settings of object stores, and the `memory://` stores, which a process shares.
#[derive(Clone, Default)]
struct Stores {
    memory: Arc<Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>>,
    wrapper: Option<StoreWrapper>,
    durability: Durability,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// Source of the time.
#[derive(Clone, Debug)]
enum Clock {
    System,
    Manual(Arc<AtomicU64>),
}

/// Effect of a failpoint when the program passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the process at once, as `kill -9` would.
    Abort,
    /// Returns an environment error.
    Fail,
    /// Stops for this many milliseconds.
    PauseMs(u64),
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system clock")]
impl Env {
    /// The real clock and a seed from the operating system; failpoints from `WEIR_FAILPOINTS`
    /// (`name=abort;name=fail;name=pause:500`, optionally `name@3=abort` for the third passing).
    pub fn system() -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let seed = nanos ^ (u64::from(std::process::id()) << 32) ^ uuid::Uuid::new_v4().as_u64_pair().0;
        let env = Self {
            clock: Clock::System,
            random: Arc::new(AtomicU64::new(seed)),
            failpoints: Arc::default(),
            stores: Stores::default(),
            output: Printer::new(Stream::Output),
        };
        if let Ok(text) = std::env::var("WEIR_FAILPOINTS") {
            env.set_failpoints(&text)?;
        }
        Ok(env)
    }

    /// A clock that shows `unix_ms` until [`Env::advance`] moves it, and a fixed seed.
    pub fn manual(unix_ms: u64, seed: u64) -> Self {
        Self {
            clock: Clock::Manual(Arc::new(AtomicU64::new(unix_ms))),
            random: Arc::new(AtomicU64::new(seed)),
            failpoints: Arc::default(),
            stores: Stores::default(),
            output: Printer::new(Stream::Output),
        }
    }

    /// The same environment with `wrapper` around every object store opened from now on.
    #[must_use]
    pub fn with_store_wrapper(mut self, wrapper: StoreWrapper) -> Self {
        self.stores.wrapper = Some(wrapper);
        self
    }

    /// The same environment with another durability of local files.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.stores.durability = durability;
        self
    }

    /// The same environment with another printer.
    #[must_use]
    pub fn with_output(mut self, output: Printer) -> Self {
        self.output = output;
        self
    }

    /// The durability of writes to local files.
    pub fn durability(&self) -> Durability {
        self.stores.durability
    }

    /// The store behind `memory://name/`, made at first use and shared by all clones of this environment.
    pub fn memory_store(&self, name: &str) -> Arc<dyn ObjectStore> {
        let mut stores = self.stores.memory.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(stores.entry(name.to_owned()).or_insert_with(|| Arc::new(InMemory::new())))
    }

    /// Applies the store wrapper, if any.
    pub fn wrap_store(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        match &self.stores.wrapper {
            Some(wrapper) => wrapper(store),
            None => store,
        }
    }

    /// The printer for standard output.
    pub fn output(&self) -> &Printer {
        &self.output
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn unix_ms(&self) -> i64 {
        match &self.clock {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
            }
            Clock::Manual(now) => now.load(Ordering::SeqCst) as i64,
        }
    }

    /// A monotonic instant, for durations only.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Waits until `at`, by the real clock as [`Env::instant`] is.
    pub async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at.into()).await;
    }

    /// Waits for `time`.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.instant() + time).await;
    }

    /// Moves a manual clock; a system clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(now) = &self.clock {
            now.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }

    /// The next pseudo-random number (splitmix64).
    pub fn random_u64(&self) -> u64 {
        let mut state = self.random.fetch_add(SPLITMIX_STEP, Ordering::SeqCst);
        splitmix64(&mut state)
    }

    /// A random number that is never negative; written as 16 hexadecimal digits, an identifier.
    pub fn random_id(&self) -> i64 {
        (self.random_u64() >> 1) as i64
    }

    /// Arms failpoints from their text form; see [`Env::system`].
    pub fn set_failpoints(&self, text: &str) -> Result<()> {
        let mut points = self.failpoints.lock().unwrap_or_else(PoisonError::into_inner);
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let (name, action) =
                part.split_once('=').ok_or_else(|| Error::config(format!("failpoint `{part}` has no action")))?;
            let action = match action.trim() {
                "abort" => Action::Abort,
                "fail" => Action::Fail,
                pause if pause.starts_with("pause:") => Action::PauseMs(
                    pause["pause:".len()..]
                        .parse()
                        .map_err(|_| Error::config(format!("bad failpoint pause `{pause}`")))?,
                ),
                other => return Err(Error::config(format!("unknown failpoint action `{other}`"))),
            };
            points.insert(name.trim().to_owned(), action);
        }
        Ok(())
    }

    /// Passes the failpoint `name`: does nothing unless it was armed. `name@K` acts on the K-th passing only.
    pub async fn failpoint(&self, name: &str) -> Result<()> {
        match self.armed(name) {
            None => Ok(()),
            Some(Action::Abort) => std::process::abort(),
            Some(Action::Fail) => Err(Error::environment(format!("failpoint `{name}` was armed"))),
            Some(Action::PauseMs(ms)) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
        }
    }

    fn armed(&self, name: &str) -> Option<Action> {
        let mut points = self.failpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if points.is_empty() {
            return None;
        }
        if let Some(action) = points.get(name) {
            return Some(*action);
        }
        let key = points.keys().find(|key| key.split_once('@').is_some_and(|(base, _)| base == name))?.clone();
        let action = points.remove(&key)?;
        let count: u64 = key.split_once('@').and_then(|(_, count)| count.parse().ok()).unwrap_or(1);
        if count <= 1 {
            return Some(action);
        }
        points.insert(format!("{name}@{}", count - 1), action);
        None
    }
}
