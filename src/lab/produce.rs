//! Simulated transactions as JSON, at a rate, to any target. Shared by `weir generate` and `weir demo`.

use std::io::Write;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::generator::{Rendering, Simulator, to_json_lines};
use crate::error::{Context, Error, Result};

/// The target of records.
pub enum Target {
    Kafka { producer: Box<BaseProducer>, topic: String },
    Lines(Box<dyn Write + Send>),
}

impl Target {
    /// `kafka://host:port/topic`, `-` for `output`, or a file's path.
    pub fn parse(text: &str, output: impl FnOnce() -> Box<dyn Write + Send>) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("kafka://") {
            let (servers, topic) = rest
                .split_once('/')
                .filter(|(servers, topic)| !servers.is_empty() && !topic.is_empty())
                .ok_or_else(|| {
                    Error::config(format!("`{text}` is not a Kafka target")).with_hint("Write kafka://host:port/topic.")
                })?;
            return Self::kafka(servers, topic);
        }
        if text == "-" {
            return Ok(Self::Lines(Box::new(std::io::BufWriter::new(output()))));
        }
        let file = std::fs::File::create(text)
            .context(crate::error::ErrorKind::Config, || format!("file `{text}` cannot be made"))?;
        Ok(Self::Lines(Box::new(std::io::BufWriter::new(file))))
    }

    /// A topic of a cluster.
    pub fn kafka(servers: &str, topic: &str) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("linger.ms", "5")
            .set("acks", "all")
            .set("compression.type", "none")
            .set("queue.buffering.max.messages", "200000")
            .create()
            .environment(|| format!("a producer for `{servers}` cannot be made"))?;
        Ok(Self::Kafka { producer: Box::new(producer), topic: topic.to_owned() })
    }

    fn send(&mut self, record: &[u8]) -> Result<()> {
        match self {
            Self::Lines(out) => {
                let written = out.write_all(record).and_then(|()| out.write_all(b"\n"));
                written.environment(|| "records cannot be written".to_owned())
            }
            Self::Kafka { producer, topic } => {
                let mut message = BaseRecord::<(), [u8]>::to(topic).payload(record);
                loop {
                    match producer.send(message) {
                        Ok(()) => return Ok(()),
                        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), same)) => {
                            producer.poll(Duration::from_millis(5));
                            message = same;
                        }
                        Err((error, _)) => {
                            return Err(
                                Error::environment(format!("topic `{topic}` takes no records")).with_source(error)
                            );
                        }
                    }
                }
            }
        }
    }

    fn serve(&self) {
        if let Self::Kafka { producer, .. } = self {
            producer.poll(Duration::ZERO);
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::Lines(out) => out.flush().environment(|| "records cannot be written".to_owned()),
            Self::Kafka { producer, topic } => producer
                .flush(Duration::from_secs(30))
                .environment(|| format!("topic `{topic}` did not take all records")),
        }
    }
}

/// Rate and amount.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records a second; `None` = as fast as the target takes them.
    pub rate: Option<f64>,
    /// Ends after this many records.
    pub rows: Option<u64>,
    /// Ends after this many simulated days.
    pub days: Option<u32>,
    /// Every record with a number divisible by this is truncated, so that it becomes a dead letter; 0 = never.
    pub broken_every: u64,
}

/// Sends the simulator's transactions from its current day on; returns their number. Ends early once `stopped`.
/// Blocks: run it on its own thread.
///
/// At a rate, records are sent in steps of a few milliseconds, so that latencies measured downstream are meaningful.
pub fn send(
    simulator: &mut Simulator,
    target: &mut Target,
    pace: Pace,
    rendering: Rendering,
    stopped: &dyn Fn() -> bool,
) -> Result<u64> {
    const STEP: Duration = Duration::from_millis(2);
    let began = Instant::now();
    let mut sent: u64 = 0;
    let mut days = 0;
    'days: while pace.days.is_none_or(|limit| days < limit) {
        days += 1;
        let (text, bounds) = to_json_lines(&simulator.next_day()?, rendering)?;
        for pair in bounds.windows(2) {
            if stopped() || pace.rows.is_some_and(|rows| sent >= rows) {
                break 'days;
            }
            if let Some(rate) = pace.rate {
                while sent as f64 >= began.elapsed().as_secs_f64() * rate {
                    target.serve();
                    std::thread::sleep(STEP);
                    if stopped() {
                        break 'days;
                    }
                }
            }
            let record = text[pair[0] as usize..pair[1] as usize].trim_ascii_end();
            sent += 1;
            let broken = pace.broken_every > 0 && sent.is_multiple_of(pace.broken_every);
            target.send(if broken { &record[..record.len() / 2] } else { record })?;
            if sent.is_multiple_of(1024) {
                target.serve();
            }
        }
    }
    target.finish()?;
    Ok(sent)
}
