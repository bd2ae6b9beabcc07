//! The real `weir` program in a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with SQL files, a warehouse and no configuration.
pub struct Weir {
    dir: tempfile::TempDir,
}

impl Weir {
    /// An empty folder.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The program with these arguments, to be run in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["WEIR_FAILPOINTS", "WEIR_STORE_FAULTS", "NO_COLOR"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs to the end and captures what is printed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// As [`Weir::run`]; fails the test unless the program succeeds. Returns standard output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "weir {arguments:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts in the background, output to `log` in the folder.
    pub fn start(&self, arguments: &[&str], variables: &[(&str, &str)], log: &str) -> Running {
        let file = std::fs::File::options().create(true).append(true).open(self.path(log)).unwrap();
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied()).stdout(file.try_clone().unwrap()).stderr(file);
        Running { child: command.spawn().unwrap(), log: self.path(log) }
    }

    /// The rows of a query over the folder's warehouse, as CSV lines without the header.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let out = self.succeed(&["query", "--format", "csv", sql]);
        out.lines().skip(1).map(str::to_owned).collect()
    }

    /// The one number that a query gives.
    pub fn number(&self, sql: &str) -> i64 {
        let rows = self.query(sql);
        rows.first().and_then(|row| row.parse().ok()).unwrap_or_else(|| panic!("{sql}: {rows:?}"))
    }
}

/// A program in the background; dropping it kills it.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// `kill -9`.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for the end. Returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal();
        self.wait(Duration::from_secs(60))
    }

    /// SIGTERM.
    pub fn signal(&self) {
        signal(&self.child);
    }

    /// Waits for the end, at most `limit`. Returns the exit code, `None` after a signal; fails the test when it goes on.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "weir goes on: {}", self.printed());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Output so far of it and its predecessors with the same log.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends SIGTERM.
pub fn signal(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
