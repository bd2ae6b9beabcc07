//! The one public error type. Its kind tells the reader what to do; `main` prints the chain once.
//!
//! Messages are lower case with objects in backticks and no full stop; detail and hint are sentences.

mod foreign;

use std::fmt;

pub use self::foreign::{OF_CONDITION, beside, out_of_memory, sentence};

/// Result of a fallible function of weir.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The action that an error asks of its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The SQL is wrong: fix the statement.
    Sql,
    /// The configuration or the command line is wrong: fix it.
    Config,
    /// Something outside failed (network, disk, broker, store): a retry may help.
    Environment,
    /// Another run of the same pipeline has taken over: this one must stop.
    Fenced,
    /// Stored data is damaged or contradicts itself: look before anything else is run.
    Damaged,
    /// A defect in weir.
    Internal,
}

impl ErrorKind {
    /// The process exit code for an error of this kind: 1 the user's input, 2 the environment (start again), 3 fenced, 4
    /// damaged data or a defect (do not start again before someone has looked).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Sql | Self::Config => 1,
            Self::Environment => 2,
            Self::Fenced => 3,
            Self::Damaged | Self::Internal => 4,
        }
    }
}

/// A SQLSTATE: five characters by which a program recognises the kind of an error. The codes are those of SQL:2016 and of
/// PostgreSQL (its manual, appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlState(&'static str);

impl SqlState {
    pub const SYNTAX: Self = Self("42601");
    /// Syntax error or access rule violation that no other code describes.
    pub const RULE: Self = Self("42000");
    pub const UNDEFINED_TABLE: Self = Self("42P01");
    pub const UNDEFINED_COLUMN: Self = Self("42703");
    pub const UNDEFINED_FUNCTION: Self = Self("42883");
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    pub const AMBIGUOUS_COLUMN: Self = Self("42702");
    pub const TYPES: Self = Self("42804");
    pub const UNSUPPORTED: Self = Self("0A000");
    pub const READ_ONLY: Self = Self("25006");
    pub const DIVISION_BY_ZERO: Self = Self("22012");
    pub const OUT_OF_RANGE: Self = Self("22003");
    pub const INVALID_TEXT: Self = Self("22P02");
    pub const DATA: Self = Self("22000");
    pub const DATETIME_FORMAT: Self = Self("22007");
    pub const DATETIME_RANGE: Self = Self("22008");
    pub const SUBSTRING: Self = Self("22011");
    /// A parameter value that a function does not accept.
    pub const PARAMETER: Self = Self("22023");
    pub const REGEX: Self = Self("2201B");
    pub const PARAMETERS: Self = Self("07001");
    pub const UNKNOWN_STATEMENT: Self = Self("26000");
    pub const OUT_OF_MEMORY: Self = Self("53200");
    pub const TOO_MANY: Self = Self("53300");
    pub const TOO_COMPLEX: Self = Self("54001");
    pub const LIMIT: Self = Self("54000");
    pub const CANCELLED: Self = Self("57014");
    pub const LOGIN: Self = Self("28000");
    pub const PROTOCOL: Self = Self("08P01");
    pub const SYSTEM: Self = Self("58000");
    pub const CONFIGURATION: Self = Self("F0000");
    pub const FENCED: Self = Self("40001");
    pub const DAMAGED: Self = Self("XX001");
    pub const INTERNAL: Self = Self("XX000");

    /// The five characters.
    pub fn code(self) -> &'static str {
        self.0
    }
}

/// An error: message, cause and remedy.
#[derive(Debug)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    state: Option<SqlState>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; the message is lower case, with objects in backticks and no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                detail: None,
                hint: None,
                state: None,
                source: None,
            }),
        }
    }

    /// Shorthand for [`ErrorKind::Sql`].
    pub fn sql(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Sql, message)
    }

    /// Shorthand for [`ErrorKind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// Shorthand for [`ErrorKind::Environment`].
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Environment, message)
    }

    /// Shorthand for [`ErrorKind::Fenced`].
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, message)
    }

    /// Shorthand for [`ErrorKind::Damaged`].
    pub fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds a sentence of explanation.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.inner.detail = Some(detail.into());
        self
    }

    /// Adds a sentence on the remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// Sets a SQLSTATE that is more exact than that of the kind.
    #[must_use]
    pub fn with_state(mut self, state: SqlState) -> Self {
        self.inner.state = Some(state);
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// The weir error that `error`, of another crate, was caused by; for what travels through stores and engines.
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut causes =
            std::iter::successors(Some(error), |error| match error.downcast_ref::<delta_kernel::Error>() {
                // The kernel names no source here.
                Some(delta_kernel::Error::ObjectStore(store)) => Some(store as &(dyn std::error::Error + 'static)),
                _ => error.source(),
            });
        let Inner { kind, message, detail, hint, state, .. } =
            &*causes.find_map(|cause| cause.downcast_ref::<Self>())?.inner;
        let (message, detail, hint) = (message.clone(), detail.clone(), hint.clone());
        Some(Self { inner: Box::new(Inner { kind: *kind, message, detail, hint, state: *state, source: None }) })
    }

    /// The kind, which tells the reader what to do.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The error's SQLSTATE.
    pub fn state(&self) -> SqlState {
        self.inner.state.unwrap_or(match self.inner.kind {
            ErrorKind::Sql => SqlState::RULE,
            ErrorKind::Config => SqlState::CONFIGURATION,
            ErrorKind::Environment => SqlState::SYSTEM,
            ErrorKind::Fenced => SqlState::FENCED,
            ErrorKind::Damaged => SqlState::DAMAGED,
            ErrorKind::Internal => SqlState::INTERNAL,
        })
    }

    /// The message, one line.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The sentence of explanation, if any.
    pub fn detail(&self) -> Option<&str> {
        self.inner.detail.as_deref()
    }

    /// The sentence on the remedy, if any.
    pub fn hint(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Wraps a foreign error in a weir error with a kind and a message.
pub trait Context<T> {
    /// Wraps the error as `kind` with the message that `message` makes.
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;

    /// Wraps the error as [`ErrorKind::Environment`].
    fn environment(self, message: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized,
    {
        self.context(ErrorKind::Environment, message)
    }

    /// Wraps the error as [`ErrorKind::Internal`].
    fn internal(self, message: impl FnOnce() -> String) -> Result<T>
    where
        Self: Sized,
    {
        self.context(ErrorKind::Internal, message)
    }
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(kind, message()).with_source(source))
    }
}
