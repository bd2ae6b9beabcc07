//! Card transactions with known frauds, day by day.
//!
//! Built from the description of the simulator in Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine Learning for
//! Credit Card Fraud Detection". A day is a pure function of the seed and its number, so memory is bounded by one day and
//! any day can be generated again. Where the book uses all days at once (scenario 3 takes exactly a third of a card's
//! transactions), each day decides independently (each transaction with probability one third).

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use rand_distr::{Distribution, Normal, Poisson};

use super::random::{Purpose, Stream};
use super::world::World;
use crate::error::{Context, Result};

/// 2018-04-01T00:00:00Z, the first simulated instant.
const FIRST_MICROS: i64 = 1_522_540_800_000_000;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// Amounts above this are fraud (scenario 1).
const SUSPICIOUS_AMOUNT: f64 = 220.0;

/// Terminals compromised each day, and the number of days (scenario 2).
const TERMINALS_A_DAY: u32 = 2;
const TERMINAL_DAYS: u64 = 28;

/// Cards leaked each day, and the number of days (scenario 3).
const CARDS_A_DAY: u32 = 3;
const CARD_DAYS: u64 = 14;

/// Generates the days of one simulation, one after the other.
#[derive(Debug)]
pub struct Simulator {
    seed: u64,
    world: World,
    day: u64,
    next_row: u64,
    schema: SchemaRef,
}

/// One transaction of the current day.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    /// Milliseconds since the start of the day.
    millis: i64,
    customer: u32,
    terminal: u32,
    amount: f64,
    /// 0 = genuine.
    scenario: i32,
}

impl Simulator {
    /// A simulation; the published one has 5,000 customers and 10,000 terminals.
    pub fn new(seed: u64, customers: u32, terminals: u32) -> Self {
        Self { seed, world: World::new(seed, customers, terminals), day: 0, next_row: 0, schema: schema() }
    }

    /// The next day that [`Self::next_day`] generates; 0 is 2018-04-01.
    pub fn day(&self) -> u64 {
        self.day
    }

    /// The number of transactions on the days so far, which is the number of the next one.
    pub fn next_row(&self) -> u64 {
        self.next_row
    }

    /// The next day's transactions in the order of their time; a day may be empty.
    pub fn next_day(&mut self) -> Result<RecordBatch> {
        let transactions = self.transactions(self.day);
        let batch = self.batch(&transactions)?;
        self.day += 1;
        self.next_row += transactions.len() as u64;
        Ok(batch)
    }

    fn transactions(&self, day: u64) -> Vec<Transaction> {
        let mut transactions = self.genuine(day);
        // Before the sort they are in the order of customers, which it keeps for equal times.
        transactions.sort_by_key(|transaction| transaction.millis);
        self.commit_fraud(day, &mut transactions);
        transactions
    }

    fn genuine(&self, day: u64) -> Vec<Transaction> {
        let mut stream = Stream::new(self.seed, Purpose::Transactions, day);
        let mut transactions = Vec::new();
        let Ok(time_of_day) = Normal::new(43_200.0, 20_000.0) else { return transactions };
        for (number, customer) in self.world.customers.iter().enumerate() {
            let reach = &self.world.reach[customer.reach.clone()];
            let (Ok(count), Ok(amount)) =
                (Poisson::new(customer.rate), Normal::new(customer.mean_amount, customer.mean_amount / 2.0))
            else {
                continue;
            };
            if reach.is_empty() {
                continue; // no terminal at all
            }
            for _ in 0..count.sample(&mut stream) as u32 {
                let millis = (time_of_day.sample(&mut stream) * 1_000.0) as i64;
                let mut spent = amount.sample(&mut stream);
                if spent < 0.0 {
                    spent = stream.unit() * 2.0 * customer.mean_amount;
                }
                let terminal = reach[stream.below(reach.len() as u32) as usize];
                if (1..MILLIS_PER_DAY).contains(&millis) {
                    let amount = in_cents(spent);
                    transactions.push(Transaction { millis, customer: number as u32, terminal, amount, scenario: 0 });
                }
            }
        }
        transactions
    }

    /// Marks transactions as frauds; if several scenarios apply, the last one counts.
    fn commit_fraud(&self, day: u64, transactions: &mut [Transaction]) {
        let (customers, terminals) = (self.world.customers.len(), self.world.locations.len());
        let compromised = self.marked(day, TERMINAL_DAYS, Purpose::CompromisedTerminals, TERMINALS_A_DAY, terminals);
        let leaked = self.marked(day, CARD_DAYS, Purpose::LeakedCards, CARDS_A_DAY, customers);
        let mut use_of_card = Stream::new(self.seed, Purpose::LeakedUse, day);
        for transaction in transactions {
            if transaction.amount > SUSPICIOUS_AMOUNT {
                transaction.scenario = 1;
            }
            if compromised.binary_search(&transaction.terminal).is_ok() {
                transaction.scenario = 2;
            }
            if leaked.binary_search(&transaction.customer).is_ok() && use_of_card.unit() * 3.0 < 1.0 {
                transaction.amount = in_cents(transaction.amount * 5.0);
                transaction.scenario = 3;
            }
        }
    }

    /// The customers or terminals marked on the last `days` days, including this one; sorted.
    fn marked(&self, day: u64, days: u64, purpose: Purpose, a_day: u32, of: usize) -> Vec<u32> {
        let mut all = Vec::new();
        for day in (day + 1).saturating_sub(days)..=day {
            let mut stream = Stream::new(self.seed, purpose, day);
            let mut today: Vec<u32> = Vec::new();
            while today.len() < (a_day as usize).min(of) {
                let candidate = stream.below(of as u32);
                if !today.contains(&candidate) {
                    today.push(candidate);
                }
            }
            all.extend(today);
        }
        all.sort_unstable();
        all
    }

    fn batch(&self, transactions: &[Transaction]) -> Result<RecordBatch> {
        let rows = transactions.len();
        let midnight = FIRST_MICROS + self.day as i64 * MILLIS_PER_DAY * 1_000;
        let mut names = Names::default();
        let mut ids = StringBuilder::with_capacity(rows, rows * 14);
        let mut users = StringBuilder::with_capacity(rows, rows * 7);
        let mut terminals = StringBuilder::with_capacity(rows, rows * 7);
        let mut locations = StringBuilder::with_capacity(rows, rows * 6);
        for (row, transaction) in transactions.iter().enumerate() {
            ids.append_value(names.write("tx", self.next_row + row as u64, 12));
            users.append_value(names.write("c", u64::from(transaction.customer), 6));
            terminals.append_value(names.write("t", u64::from(transaction.terminal), 6));
            locations.append_value(names.cell(self.world.locations[transaction.terminal as usize]));
        }
        let times = transactions.iter().map(|transaction| midnight + transaction.millis * 1_000);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ids.finish()),
            Arc::new(users.finish()),
            Arc::new(Float64Array::from_iter_values(transactions.iter().map(|transaction| transaction.amount))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
            Arc::new(terminals.finish()),
            Arc::new(locations.finish()) as Arc<StringArray>,
            Arc::new(BooleanArray::from_iter(transactions.iter().map(|transaction| Some(transaction.scenario > 0)))),
            Arc::new(Int32Array::from_iter_values(transactions.iter().map(|transaction| transaction.scenario))),
        ];
        RecordBatch::try_new(SchemaRef::clone(&self.schema), columns)
            .internal(|| "simulated transactions do not fit their schema".to_owned())
    }
}

/// The schema of every batch.
pub fn schema() -> SchemaRef {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("transaction_id", DataType::Utf8, false),
        Field::new("user_id", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("ts", timestamp, true),
        Field::new("terminal_id", DataType::Utf8, true),
        Field::new("location", DataType::Utf8, true),
        Field::new("is_fraud", DataType::Boolean, true),
        Field::new("fraud_scenario", DataType::Int32, true),
    ]))
}

fn in_cents(amount: f64) -> f64 {
    (amount * 100.0).round() / 100.0
}

/// Buffer for the last name written; it is at the end.
#[derive(Debug, Default)]
struct Names([u8; 32]);

impl Names {
    /// `prefix`, of at most 12 bytes, and `number` with at least `width` digits.
    fn write(&mut self, prefix: &str, number: u64, width: usize) -> &str {
        let (mut at, mut rest) = (self.0.len(), number);
        let padded = at - width;
        while rest > 0 || at > padded {
            at -= 1;
            self.0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let start = at - prefix.len();
        self.0[start..at].copy_from_slice(prefix.as_bytes());
        std::str::from_utf8(&self.0[start..]).unwrap_or_default()
    }

    /// The name of a grid cell, as `x42y17`.
    fn cell(&mut self, [x, y]: [u8; 2]) -> &str {
        let mut at = self.0.len();
        for (axis, value) in [(b'y', y), (b'x', x)] {
            at -= 1;
            self.0[at] = b'0' + value % 10;
            if value >= 10 {
                at -= 1;
                self.0[at] = b'0' + value / 10;
            }
            at -= 1;
            self.0[at] = axis;
        }
        std::str::from_utf8(&self.0[at..]).unwrap_or_default()
    }
}
