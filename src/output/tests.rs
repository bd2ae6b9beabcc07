use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Writes only as often as `go` allows.
struct Gate {
    go: Receiver<io::Result<()>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.go.recv() {
            Ok(Ok(())) => {
                self.written.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes that a [`Gate`] has written so far.
type Written = Arc<Mutex<Vec<u8>>>;

fn gated() -> (Printer, Sender<io::Result<()>>, Written) {
    let printer = Printer::new(Stream::Output);
    let (sender, go) = channel();
    let written = Written::default();
    let gate = Gate { go, written: Arc::clone(&written) };
    printer.shared.lock().started = true;
    printer.start(Ok(gate)).unwrap();
    (printer, sender, written)
}

const LINE: [u8; 1000] = [b'x'; 1000];

#[test]
fn printing_never_waits_and_what_finds_no_room_is_counted() {
    let (printer, go, written) = gated();
    for _ in 0..5_000 {
        printer.print(LINE);
    }
    let (dropped, taken) = {
        let state = printer.shared.lock();
        (state.dropped, state.taken)
    };
    assert!(taken <= ROOM && (3_900..4_100).contains(&dropped), "{dropped} dropped, {taken} taken");
    for _ in 0..5_000 - dropped {
        go.send(Ok(())).unwrap();
    }
    assert!(printer.drain(Patience::Endless));
    assert_eq!(written.lock().unwrap().len() as u64, (5_000 - dropped) * 1_000);
    assert_eq!(printer.shared.lock().taken, 0);
}

#[test]
fn a_text_larger_than_the_room_is_printed_where_nothing_else_waits() {
    let (printer, go, written) = gated();
    printer.print(vec![b'x'; 2 * ROOM]);
    printer.print("no room");
    assert_eq!(printer.shared.lock().dropped, 1);
    for _ in 0..2 * ROOM / PIECE {
        go.send(Ok(())).unwrap();
    }
    assert!(printer.drain(Patience::Endless));
    assert_eq!(written.lock().unwrap().len(), 2 * ROOM);
}

#[test]
fn a_reader_that_has_gone_away_ends_nothing() {
    let (printer, go, _) = gated();
    printer.print("first");
    drop(go);
    assert!(printer.drain(Patience::Endless));
    for _ in 0..5_000 {
        printer.print(LINE);
    }
    let state = printer.shared.lock();
    assert!(state.closed && state.waiting.is_empty() && state.taken == 0);
}

#[test]
fn an_interrupted_write_is_repeated_and_a_full_disk_costs_one_text() {
    let (printer, go, written) = gated();
    printer.print("one ");
    printer.print("two ");
    printer.print("three");
    for kind in [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock] {
        go.send(Err(kind.into())).unwrap();
    }
    go.send(Ok(())).unwrap();
    go.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
    go.send(Ok(())).unwrap();
    assert!(printer.drain(Patience::Endless));
    assert_eq!(*written.lock().unwrap(), b"one three");
}

#[test]
fn the_end_waits_only_for_a_reader_that_reads() {
    let (printer, go, _) = gated();
    printer.print("never read");
    let began = Instant::now();
    assert!(!printer.drain(Patience::AtMost(Duration::from_secs(60))));
    assert!(!printer.drain(Patience::AtMost(Duration::from_millis(10))));
    assert!(began.elapsed() < Duration::from_secs(30));
    // A reader that reads again is waited for again.
    go.send(Ok(())).unwrap();
    assert!(printer.drain(Patience::Endless));
    assert!(printer.drain(Patience::AtMost(Duration::ZERO)));
}

#[tokio::test]
async fn rows_wait_for_a_slow_reader_and_not_for_one_that_does_not_read() {
    let (printer, go, written) = gated();
    let slow = std::thread::spawn(move || {
        for _ in 0..3_000 {
            go.send(Ok(())).unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        go
    });
    for _ in 0..3_000 {
        printer.print_patiently(LINE).await;
    }
    let go = slow.join().unwrap();
    assert!(printer.drain(Patience::Endless));
    assert_eq!(written.lock().unwrap().len(), 3_000 * 1_000);
    // The reader stops here: after a second nothing waits for it any more.
    let began = Instant::now();
    for _ in 0..20_000 {
        printer.print_patiently(LINE).await;
    }
    assert!(printer.shared.lock().dropped > 15_000 && began.elapsed() < Duration::from_secs(30));
    drop(go);
}

#[test]
fn a_real_pipe_that_nobody_reads_blocks_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let printer = Printer::new(Stream::Error);
    printer.shared.lock().started = true;
    printer.start(Ok(writer)).unwrap();
    for _ in 0..5_000 {
        printer.print(LINE);
    }
    assert!(!printer.drain(Patience::AtMost(Duration::from_millis(100))));
    let mut some = [0; 1000];
    reader.read_exact(&mut some).unwrap();
    drop(reader);
    assert!(printer.drain(Patience::Endless));
}
