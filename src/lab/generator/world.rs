//! The customers and terminals of a simulation, and the terminals within reach of each customer.

use super::random::{Purpose, Stream};

/// Side length of the square that contains everything.
const SIDE: f64 = 100.0;

/// The distance that a customer goes.
const RADIUS: f64 = 5.0;

/// Number of cells along a side, each as wide as the radius: everything within reach is in a neighbouring cell.
const CELLS: usize = (SIDE / RADIUS) as usize;

/// A customer with their spending habits.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    pub(super) mean_amount: f64,
    /// Mean transactions a day.
    pub(super) rate: f64,
    /// The terminals within reach: a range of [`World::reach`].
    pub(super) reach: std::ops::Range<usize>,
}

/// The parts that do not change from day to day.
#[derive(Debug)]
pub(super) struct World {
    pub(super) customers: Vec<Customer>,
    /// Terminals within reach, customer by customer.
    pub(super) reach: Vec<u32>,
    /// The grid cell of each terminal, which is the location of its transactions.
    pub(super) locations: Vec<[u8; 2]>,
}

impl World {
    /// The world of `seed`.
    pub(super) fn new(seed: u64, customers: u32, terminals: u32) -> Self {
        let mut stream = Stream::new(seed, Purpose::Terminals, 0);
        let places: Vec<(f64, f64)> = (0..terminals).map(|_| (stream.unit() * SIDE, stream.unit() * SIDE)).collect();
        let mut cells = vec![Vec::new(); CELLS * CELLS];
        for (terminal, place) in places.iter().enumerate() {
            cells[cell(place.0) * CELLS + cell(place.1)].push(terminal as u32);
        }
        let mut world = Self {
            customers: Vec::with_capacity(customers as usize),
            reach: Vec::new(),
            locations: places.iter().map(|place| [place.0 as u8, place.1 as u8]).collect(),
        };
        let mut stream = Stream::new(seed, Purpose::Customers, 0);
        for _ in 0..customers {
            let place = (stream.unit() * SIDE, stream.unit() * SIDE);
            let from = world.reach.len();
            add_within_reach(place, &places, &cells, &mut world.reach);
            // In the published world all customers reach some terminal; in a sparse world, they use the nearest.
            if world.reach.len() == from {
                world.reach.extend(nearest(place, &places));
            }
            world.reach[from..].sort_unstable();
            world.customers.push(Customer {
                mean_amount: 5.0 + 95.0 * stream.unit(),
                rate: 4.0 * stream.unit(),
                reach: from..world.reach.len(),
            });
        }
        world
    }
}

fn nearest(place: (f64, f64), places: &[(f64, f64)]) -> Option<u32> {
    let distance = |other: &(f64, f64)| (place.0 - other.0).hypot(place.1 - other.1);
    let (terminal, _) = places.iter().enumerate().min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)))?;
    Some(terminal as u32)
}

fn cell(coordinate: f64) -> usize {
    ((coordinate / RADIUS) as usize).min(CELLS - 1)
}

fn add_within_reach(place: (f64, f64), places: &[(f64, f64)], cells: &[Vec<u32>], reach: &mut Vec<u32>) {
    let around = |at: usize| at.saturating_sub(1)..=(at + 1).min(CELLS - 1);
    for x in around(cell(place.0)) {
        for y in around(cell(place.1)) {
            reach.extend(cells[x * CELLS + y].iter().copied().filter(|terminal| {
                let other = places[*terminal as usize];
                (place.0 - other.0).hypot(place.1 - other.1) < RADIUS
            }));
        }
    }
}
