//! When a stream's next sample is due, and where it goes. Pure: time comes in as seconds, nothing is sent here.

/// How far a stream may fall behind its schedule and still catch up at once, in seconds. What goes beyond moves the
/// schedule, so that a stream that was held up goes on at its own rate instead of in one flood.
pub const CATCH_UP_SECONDS: f64 = 1.0;

/// Absolute schedule of one stream: sample k is due at `start + k / rate`, so that no delay adds up.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    samples_per_second: f64,
    /// When sample number `base` is due, in seconds.
    anchor_seconds: f64,
    base: u64,
    slipped_seconds: f64,
}

impl Schedule {
    /// A stream of `samples_per_second` whose first sample is due at `start_seconds`.
    pub fn new(samples_per_second: f64, start_seconds: f64) -> Self {
        Self { samples_per_second, anchor_seconds: start_seconds, base: 0, slipped_seconds: 0.0 }
    }

    /// The rate asked for.
    pub fn samples_per_second(&self) -> f64 {
        self.samples_per_second
    }

    /// By how much the schedule has been moved because the stream was held up.
    pub fn slipped_seconds(&self) -> f64 {
        self.slipped_seconds
    }

    /// Samples due up to and including `now_seconds`, since the start.
    pub fn due(&self, now_seconds: f64) -> u64 {
        let elapsed = now_seconds - self.anchor_seconds;
        if self.samples_per_second <= 0.0 || elapsed < 0.0 {
            return self.base;
        }
        // A millionth of a sample of grace, so that k / rate · rate counts as k.
        self.base + (elapsed * self.samples_per_second + 1e-6) as u64 + 1
    }

    /// When sample number `sent` is due; infinity for a stream of rate 0.
    pub fn next_due_seconds(&self, sent: u64) -> f64 {
        if self.samples_per_second <= 0.0 {
            return f64::INFINITY;
        }
        self.anchor_seconds + (sent as f64 - self.base as f64) / self.samples_per_second
    }

    /// Goes on at another rate from `now_seconds`; what was due before stays due.
    pub fn set_rate(&mut self, samples_per_second: f64, now_seconds: f64) {
        self.base = self.due(now_seconds);
        self.samples_per_second = samples_per_second;
        self.anchor_seconds =
            now_seconds + if samples_per_second > 0.0 { 1.0 / samples_per_second } else { 0.0 };
    }

    /// Moves the schedule where more than [`CATCH_UP_SECONDS`] are due and unsent.
    pub fn slip(&mut self, now_seconds: f64, sent: u64) {
        let behind = now_seconds - self.next_due_seconds(sent);
        if behind.is_finite() && behind > CATCH_UP_SECONDS {
            self.anchor_seconds += behind - CATCH_UP_SECONDS;
            self.slipped_seconds += behind - CATCH_UP_SECONDS;
        }
    }
}

/// Place of a record in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Partition p of P.
    pub partition: u32,
    /// Offset o in it.
    pub offset: u64,
    /// Number o · P + p in the device's stream.
    pub number: u64,
}

/// Where the records of one device go next, and how much of what was sent is not yet covered by a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    next: Vec<u64>,
    durable: Vec<u64>,
}

impl Cursor {
    /// Continues at each partition's end offset. `durable`: oldest offsets that a restart would need.
    pub fn new(next: Vec<u64>, durable: Vec<u64>) -> Self {
        Self { next, durable }
    }

    /// The lowest number that is not sent: partitions in turn, and one that lags after a restart first.
    pub fn next_place(&self) -> Place {
        let count = self.next.len() as u64;
        let places = self.next.iter().zip(0u32..).map(|(&offset, partition)| Place {
            partition,
            offset,
            number: offset * count + u64::from(partition),
        });
        places.min_by_key(|place| place.number).unwrap_or(Place { partition: 0, offset: 0, number: 0 })
    }

    /// Counts the record at `place` as sent.
    pub fn advance(&mut self, place: Place) {
        if let Some(next) = self.next.get_mut(place.partition as usize) {
            *next = place.offset + 1;
        }
    }

    /// Bytes of `partition` that a restart would need, at `stored_bytes` a record.
    pub fn needed_bytes(&self, partition: u32, stored_bytes: u64) -> u64 {
        let p = partition as usize;
        self.next[p].saturating_sub(self.durable[p]) * stored_bytes
    }

    /// True where one more record of `stored_bytes` keeps `partition` within `budget_bytes`.
    pub fn may_send(&self, partition: u32, stored_bytes: u64, budget_bytes: Option<u64>) -> bool {
        budget_bytes.is_none_or(|budget| self.needed_bytes(partition, stored_bytes) + stored_bytes <= budget)
    }

    /// Records below `offsets` are no longer needed (a checkpoint covers them); never goes back.
    pub fn set_durable(&mut self, offsets: &[u64]) {
        for (durable, &offset) in self.durable.iter_mut().zip(offsets) {
            *durable = (*durable).max(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_k_is_due_at_k_over_rate_and_no_delay_adds_up() {
        let schedule = Schedule::new(300.0, 10.0);
        assert_eq!(schedule.due(9.99), 0);
        assert_eq!(schedule.due(10.0), 1);
        for k in [1u64, 7, 299, 18_000, 1_000_000] {
            let due = schedule.next_due_seconds(k);
            assert_eq!(schedule.due(due), k + 1, "sample {k}");
            assert_eq!(schedule.due(due - 1e-4), k, "sample {k}");
        }
    }

    #[test]
    fn a_stream_held_up_for_long_catches_up_one_second_and_moves_the_rest() {
        let mut schedule = Schedule::new(100.0, 0.0);
        schedule.slip(5.0, 0);
        assert!((schedule.slipped_seconds() - 4.0).abs() < 1e-9);
        assert_eq!(schedule.due(5.0), 101);
        schedule.slip(5.5, 101);
        assert!((schedule.slipped_seconds() - 4.0).abs() < 1e-9, "half a second behind is caught up");
    }

    #[test]
    fn a_new_rate_keeps_what_was_due_and_starts_from_now() {
        let mut schedule = Schedule::new(10.0, 0.0);
        assert_eq!(schedule.due(1.0), 11);
        schedule.set_rate(100.0, 1.0);
        assert_eq!(schedule.due(1.0), 11);
        assert_eq!(schedule.due(2.0), 111);
        schedule.set_rate(0.0, 2.0);
        assert_eq!(schedule.due(1e9), 111);
    }

    #[test]
    fn numbers_are_sent_in_order_and_a_partition_that_lags_after_a_restart_comes_first() {
        let mut cursor = Cursor::new(vec![5, 3, 4], vec![0; 3]);
        let mut numbers = Vec::new();
        for _ in 0..6 {
            let place = cursor.next_place();
            assert_eq!(place.number, place.offset * 3 + u64::from(place.partition));
            numbers.push(place.number);
            cursor.advance(place);
        }
        assert_eq!(numbers, [10, 13, 14, 15, 16, 17]);
    }

    #[test]
    fn the_budget_runs_from_the_durable_offsets_and_they_never_go_back() {
        let mut cursor = Cursor::new(vec![10], vec![0]);
        assert!(!cursor.may_send(0, 100, Some(1000)));
        assert!(cursor.may_send(0, 100, None));
        cursor.set_durable(&[1]);
        assert!(cursor.may_send(0, 100, Some(1000)));
        cursor.set_durable(&[0]);
        assert_eq!(cursor.needed_bytes(0, 100), 900);
    }
}
