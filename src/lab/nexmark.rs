//! The Nexmark generator: an online auction's persons, auctions and bids by number, and their times.
//!
//! The model is that of Apache Beam's Nexmark suite, which Flink's and RisingWave's benchmarks also follow: of 50 events one
//! is a person, three are auctions, 46 are bids; recent auctions and a few hot sellers and bidders get most of the traffic.
//! Every event is a function of seed and number, so a reader can begin anywhere, and three readers with one seed are
//! consistent with each other.

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::catalog::{NexmarkTable, nexmark_columns};
use crate::env::splitmix64;
use crate::error::{Context, Result};
use crate::sql::Span;
use crate::sql::types::timestamp;

/// 2015-07-15T00:00:00Z, the first event time of Nexmark, in microseconds.
const BASE_TIME_US: i64 = 1_436_918_400_000_000;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
const ROUND: u64 = PERSONS + AUCTIONS + BIDS;
const FIRST_ID: i64 = 1_000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: u64 = 5;
/// Auctions that are open at a time, and the number of future auctions that a bid may be for.
const IN_FLIGHT: i64 = 100;
const AUCTION_LEAD: i64 = 10;
const ACTIVE_PERSONS: i64 = 1_000;
const PERSON_LEAD: i64 = 10;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

impl NexmarkTable {
    /// Events of this kind per round of 50.
    fn per_round(self) -> u64 {
        match self {
            Self::Person => PERSONS,
            Self::Auction => AUCTIONS,
            Self::Bid => BIDS,
        }
    }

    /// The event number of this kind's `row`-th event.
    pub fn event(self, row: u64) -> u64 {
        let before = match self {
            Self::Person => 0,
            Self::Auction => PERSONS,
            Self::Bid => PERSONS + AUCTIONS,
        };
        row / self.per_round() * ROUND + before + row % self.per_round()
    }

    /// The number of events of this kind among the first `events` events.
    pub fn rows_in(self, events: u64) -> u64 {
        let before = self.event(0);
        events / ROUND * self.per_round() + (events % ROUND).saturating_sub(before).min(self.per_round())
    }
}

/// The columns of a kind of event.
pub fn schema(table: NexmarkTable) -> SchemaRef {
    let columns = nexmark_columns(table, Span::default()).into_iter();
    Arc::new(Schema::new(columns.map(|column| Field::new(column.name, column.data_type, false)).collect::<Vec<_>>()))
}

/// The parameters of the generated events.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    pub seed: u64,
    /// Events of all kinds a second of event time.
    pub events_per_second: u64,
}

impl Story {
    /// The event time of event `number`.
    pub fn time_us(&self, number: u64) -> i64 {
        BASE_TIME_US + (u128::from(number) * 1_000_000 / u128::from(self.events_per_second.max(1))) as i64
    }

    /// Rows `[first, first + count)` of a kind.
    pub fn rows(&self, table: NexmarkTable, first: u64, count: usize) -> Result<RecordBatch> {
        let numbers = (first..first + count as u64).map(|row| table.event(row));
        let columns = match table {
            NexmarkTable::Person => self.persons(numbers),
            NexmarkTable::Auction => self.auctions(numbers),
            NexmarkTable::Bid => self.bids(numbers),
        };
        RecordBatch::try_new(schema(table), columns).internal(|| "nexmark events do not fit their columns".to_owned())
    }

    fn persons(&self, numbers: impl Iterator<Item = u64>) -> Vec<ArrayRef> {
        let count = numbers.size_hint().0;
        let (mut id, mut time) = (Int64Builder::with_capacity(count), times(count));
        let mut texts = texts(count, [16, 18, 20, 14, 2, 76]);
        let mut scratch = String::new();
        for number in numbers {
            let mut dice = Dice::new(self.seed, number);
            let (first, last) = (dice.pick(&FIRST_NAMES), dice.pick(&LAST_NAMES));
            let mut say = |column: usize, text: std::fmt::Arguments<'_>| {
                scratch.clear();
                let _ = scratch.write_fmt(text);
                texts[column].append_value(&scratch);
            };
            id.append_value(last_person(number));
            say(0, format_args!("{first} {last}"));
            say(1, format_args!("{}@{}.com", dice.letters(7), dice.letters(5)));
            let card = [dice.below(10_000), dice.below(10_000), dice.below(10_000), dice.below(10_000)];
            say(2, format_args!("{:04} {:04} {:04} {:04}", card[0], card[1], card[2], card[3]));
            say(3, format_args!("{}", dice.pick(&CITIES)));
            say(4, format_args!("{}", dice.pick(&STATES)));
            say(5, format_args!("{}", dice.padding(100)));
            time.append_value(self.time_us(number));
        }
        let [name, email, card, city, state, extra] = texts.map(|mut text| Arc::new(text.finish()) as ArrayRef);
        vec![Arc::new(id.finish()), name, email, card, city, state, Arc::new(time.finish()), extra]
    }

    fn auctions(&self, numbers: impl Iterator<Item = u64>) -> Vec<ArrayRef> {
        let count = numbers.size_hint().0;
        let mut numeric: [Int64Builder; 5] = std::array::from_fn(|_| Int64Builder::with_capacity(count));
        let (mut time, mut expires) = (times(count), times(count));
        let mut texts = texts(count, [10, 60, 230]);
        for number in numbers {
            let mut dice = Dice::new(self.seed, number);
            let initial = dice.price();
            let happens = self.time_us(number);
            // Three in four come from a hot seller, one in a hundred persons.
            let seller = match dice.below(4) {
                0 => self.some_person(number, &mut dice),
                _ => last_person(number) / 100 * 100,
            };
            let values = [
                last_auction(number),
                initial,
                initial + dice.price(),
                seller.max(FIRST_ID),
                FIRST_CATEGORY + dice.below(CATEGORIES) as i64,
            ];
            numeric.iter_mut().zip(values).for_each(|(column, value)| column.append_value(value));
            texts[0].append_value(dice.letters(10));
            texts[1].append_value(dice.letters(60));
            texts[2].append_value(dice.padding(300));
            time.append_value(happens);
            // An auction stays open about as long as it takes to replace the auctions in flight.
            let horizon = self.time_us(number + IN_FLIGHT as u64 * ROUND / AUCTIONS) - happens;
            expires.append_value(happens + 1_000 + dice.below((horizon * 2).max(1) as u64) as i64);
        }
        let [id, initial, reserve, seller, category] = numeric.map(|mut column| Arc::new(column.finish()) as ArrayRef);
        let [item, description, extra] = texts.map(|mut text| Arc::new(text.finish()) as ArrayRef);
        let (time, expires) = (Arc::new(time.finish()) as ArrayRef, Arc::new(expires.finish()) as ArrayRef);
        vec![id, item, description, initial, reserve, time, expires, seller, category, extra]
    }

    fn bids(&self, numbers: impl Iterator<Item = u64>) -> Vec<ArrayRef> {
        let count = numbers.size_hint().0;
        let mut numeric: [Int64Builder; 3] = std::array::from_fn(|_| Int64Builder::with_capacity(count));
        let mut time = times(count);
        let mut texts = texts(count, [10, 76, 24]);
        let mut scratch = String::new();
        for number in numbers {
            let mut dice = Dice::new(self.seed, number);
            let auction = match dice.below(2) {
                0 => {
                    let newest = last_auction(number);
                    let oldest = (newest - IN_FLIGHT).max(FIRST_ID);
                    oldest + dice.below((newest - oldest + 1 + AUCTION_LEAD) as u64) as i64
                }
                _ => (last_auction(number) / 100 * 100).max(FIRST_ID),
            };
            let bidder = match dice.below(4) {
                0 => self.some_person(number, &mut dice),
                _ => last_person(number) / 100 * 100 + 1,
            };
            let values = [auction, bidder, dice.price()];
            numeric.iter_mut().zip(values).for_each(|(column, value)| column.append_value(value));
            let channel = dice.below(10_000);
            scratch.clear();
            let _ = match dice.below(2) {
                0 => scratch.write_str(dice.pick(&HOT_CHANNELS)),
                _ => write!(scratch, "channel-{channel}"),
            };
            texts[0].append_value(&scratch);
            scratch.clear();
            let _ = write!(
                scratch,
                "https://www.nexmark.com/{}/{}/{}/item.htm?query=1",
                dice.letters(5),
                dice.letters(5),
                dice.letters(5)
            );
            if dice.below(10) > 0 {
                let _ = write!(scratch, "&channel_id={channel}");
            }
            texts[1].append_value(&scratch);
            texts[2].append_value(dice.padding(30));
            time.append_value(self.time_us(number));
        }
        let [auction, bidder, price] = numeric.map(|mut column| Arc::new(column.finish()) as ArrayRef);
        let [channel, url, extra] = texts.map(|mut text| Arc::new(text.finish()) as ArrayRef);
        vec![auction, bidder, price, channel, url, Arc::new(time.finish()), extra]
    }

    /// One of the active persons, or of those that will be active soon.
    fn some_person(&self, number: u64, dice: &mut Dice) -> i64 {
        let known = last_person(number) - FIRST_ID + 1;
        let active = known.min(ACTIVE_PERSONS);
        FIRST_ID + known - active + dice.below((active + PERSON_LEAD) as u64) as i64
    }
}

fn times(count: usize) -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::with_capacity(count).with_data_type(timestamp())
}

/// Columns of `count` texts with about this many bytes each.
fn texts<const N: usize>(count: usize, bytes: [usize; N]) -> [StringBuilder; N] {
    bytes.map(|bytes| StringBuilder::with_capacity(count, count * bytes))
}

/// The newest person at event `number`.
fn last_person(number: u64) -> i64 {
    FIRST_ID + (number / ROUND) as i64
}

/// The newest auction at event `number`.
fn last_auction(number: u64) -> i64 {
    let (round, place) = (number / ROUND, number % ROUND);
    let in_round = place.saturating_sub(PERSONS).min(AUCTIONS - 1) as i64;
    match place < PERSONS {
        // The round's auctions come later.
        true => FIRST_ID + (round * AUCTIONS) as i64 - i64::from(round > 0),
        false => FIRST_ID + (round * AUCTIONS) as i64 + in_round,
    }
}

/// Randomness of one event: splitmix64 of seed and number, the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    /// A number in `[0, limit)`.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    /// A price in cents; prices are spread over six orders of magnitude.
    fn price(&mut self) -> i64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (10_f64.powf(unit * 6.0) * 100.0).round() as i64
    }

    fn letters(&mut self, count: usize) -> Letters {
        let mut text = [0_u8; 64];
        let count = count.min(text.len());
        for letter in text.iter_mut().take(count) {
            *letter = b'a' + self.below(26) as u8;
        }
        Letters { text, count }
    }

    /// Filler text of half of `limit` to `limit` bytes.
    fn padding(&mut self, limit: usize) -> &'static str {
        const FILLER: &str = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna \
aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat duis aute irure dolor \
in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur excepteur sint";
        let limit = limit.min(FILLER.len());
        &FILLER[..limit / 2 + self.below((limit - limit / 2) as u64) as usize]
    }
}

/// A short random word without an allocation.
struct Letters {
    text: [u8; 64],
    count: usize,
}

impl std::fmt::Display for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_ref())
    }
}

impl AsRef<str> for Letters {
    fn as_ref(&self) -> &str {
        // Only ASCII letters were put in.
        std::str::from_utf8(&self.text[..self.count]).unwrap_or_default()
    }
}
