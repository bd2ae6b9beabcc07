//! Standard output of commands that print: when its reader closes it (`weir explain … | head`), the command ends quietly, as
//! other programs do.

use std::io::{self, Write};

/// Like `println!`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

pub(crate) use say;

/// Prints a line.
pub fn line(text: std::fmt::Arguments<'_>) {
    let mut out = Output::default();
    // Other errors (a full disk) cannot be handled here.
    let _ = writeln!(out, "{text}");
}

/// Standard output that ends the process when its reader has closed it.
#[derive(Debug)]
pub struct Output(io::Stdout);

impl Default for Output {
    fn default() -> Self {
        Self(io::stdout())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_end(self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_end(self.0.flush())
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        or_end(self.0.lock().write_fmt(text))
    }
}

/// Ends the process on a broken pipe, because a printing command has nothing left to do; passes other results on.
fn or_end<T>(written: io::Result<T>) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}
