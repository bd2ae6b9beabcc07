//! Output of a running pipeline: a line per epoch, a live line in between on a terminal, JSON lines otherwise.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::epoch::Progress;
use crate::output::Printer;

/// Prints progress to standard output.
pub struct Report {
    json: bool,
    attended: bool,
    output: Printer,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    rows: u64,
    epochs: u64,
    dead_letters: u64,
    header: bool,
}

impl Report {
    /// Prints JSON lines if `json`, else text.
    pub fn new(json: bool, output: Printer) -> Self {
        Self { json, attended: std::io::stdout().is_terminal(), output, live: Mutex::default() }
    }

    /// Prints one epoch.
    pub fn epoch(&self, progress: &Progress) {
        if self.json {
            if let Ok(line) = serde_json::to_string(progress) {
                self.output.print(line + "\n");
            }
            return;
        }
        let mut out = String::new();
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.rows += progress.num_input_rows;
        live.epochs += 1;
        live.dead_letters += progress.dead_letters;
        if !live.header {
            live.header = true;
            let _ = writeln!(
                out,
                "{:<16} {:>7} {:>10} {:>10} {:>9} {:>9} {:>8} {:>6} {:>9}",
                "pipeline", "epoch", "rows", "rows/s", "lag", "latency", "commit", "files", "bytes"
            );
        }
        if self.attended {
            let _ = write!(out, "\r\x1b[K");
        }
        let _ = writeln!(out, "{}", line(progress));
        if self.attended {
            let _ = write!(
                out,
                "\x1b[2m{} epochs, {} rows, {} dead letters, {} resident  (Ctrl-C commits and ends)\x1b[0m",
                live.epochs,
                grouped(live.rows),
                grouped(live.dead_letters),
                size(progress.memory)
            );
        }
        self.output.print(out);
    }

    /// Ends the live line.
    pub fn end(&self) {
        if self.attended && !self.json {
            self.output.print("\n");
        }
    }
}

fn line(progress: &Progress) -> String {
    let dead =
        if progress.dead_letters > 0 { format!("  {} dead", grouped(progress.dead_letters)) } else { String::new() };
    let out: Vec<_> =
        progress.sinks.iter().map(|sink| format!("{} {}", sink.description, grouped(sink.num_output_rows))).collect();
    format!(
        "{:<16} {:>7} {:>10} {:>10} {:>9} {:>6.1} ms {:>5} ms {:>6} {:>9}  {}{dead}",
        progress.name,
        progress.epoch,
        grouped(progress.num_input_rows),
        grouped(progress.processed_rows_per_second as u64),
        progress.lag.map_or_else(|| "-".to_owned(), grouped),
        progress.latency_ms,
        progress.duration_ms.get("commit").copied().unwrap_or(0)
            + progress.duration_ms.get("manifest").copied().unwrap_or(0),
        progress.files,
        size(progress.bytes),
        out.join(", "),
    )
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in readable form: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn sizes_use_the_largest_fitting_unit() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(128 << 20), "128.0 MiB");
    }
}
