//! Standard output, for commands that print: when its reader has gone away (`weir explain … | head`), the command ends
//! quietly, as other programs do.

use std::io::{self, Write};

/// As `println!`.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::output::line(format_args!($($text)*))
    };
}

pub(crate) use say;

/// Prints a line.
pub fn line(text: std::fmt::Arguments<'_>) {
    let mut out = Output::default();
    // What else can go wrong (a full disk) is noticed by nobody who could do more about it.
    let _ = writeln!(out, "{text}");
}

/// Standard output that ends the process when nobody reads it any more.
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

/// Passes everything on but a broken pipe, with which a printing command has nothing left to do.
fn or_end<T>(written: io::Result<T>) -> io::Result<T> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}
