use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use super::Story;
use crate::catalog::NexmarkTable;

const STORY: Story = Story { seed: 7, events_per_second: 10_000 };

#[test]
fn of_fifty_events_one_is_a_person_three_are_auctions_and_the_rest_bids() {
    let kinds = [NexmarkTable::Person, NexmarkTable::Auction, NexmarkTable::Bid];
    let mut numbers: Vec<u64> = Vec::new();
    for (kind, count) in kinds.into_iter().zip([1, 3, 46]) {
        assert_eq!(kind.rows_in(50), count);
        numbers.extend((0..2 * count).map(|row| kind.event(row)));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    for events in 0..200 {
        assert_eq!(kinds.iter().map(|kind| kind.rows_in(events)).sum::<u64>(), events);
    }
}

#[test]
fn rows_do_not_depend_on_where_reading_begins() {
    for kind in [NexmarkTable::Person, NexmarkTable::Auction, NexmarkTable::Bid] {
        let whole = STORY.rows(kind, 0, 500).unwrap();
        assert_eq!(whole.slice(123, 77), STORY.rows(kind, 123, 77).unwrap());
    }
}

#[test]
fn ids_are_dense_and_time_never_goes_back() {
    for kind in [NexmarkTable::Person, NexmarkTable::Auction] {
        let rows = STORY.rows(kind, 0, 1_000).unwrap();
        let ids = rows.column(0).as_primitive::<Int64Type>();
        assert!(ids.values().iter().copied().eq(1_000..2_000), "{kind:?}");
        let times = rows["date_time"].as_primitive::<TimestampMicrosecondType>();
        assert!(times.values().is_sorted(), "{kind:?}");
    }
}

#[test]
fn bids_are_for_auctions_and_by_persons_of_their_time() {
    let bids = STORY.rows(NexmarkTable::Bid, 0, 46_000).unwrap();
    let (auctions, bidders) = (bids["auction"].as_primitive::<Int64Type>(), bids["bidder"].as_primitive::<Int64Type>());
    for row in 0..bids.num_rows() {
        let round = row as i64 / 46;
        assert!((1_000..=1_000 + round * 3 + 2 + 11).contains(&auctions.value(row)), "row {row}");
        assert!((1_000..=1_000 + round + 101).contains(&bidders.value(row)), "row {row}");
    }
}
