//! When it will be the turn of jobs for which there is no room.

use std::time::Duration;

use tokio::time::Instant;

/// An attempt's length while nothing is known of it.
const UNKNOWN: Duration = Duration::from_millis(50);

/// The least that a job is put off: it costs two writes.
const SHORTEST: Duration = Duration::from_millis(200);

/// Hands out turns as fast as an origin has been seen to serve them.
pub(super) struct Pacer {
    /// How long an attempt takes, of late.
    mean: Duration,
    /// The last turn that was handed out.
    last: Option<Instant>,
}

impl Pacer {
    pub(super) const fn new() -> Self {
        Self {
            mean: UNKNOWN,
            last: None,
        }
    }

    /// An attempt took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.mean = (self.mean * 7 + time) / 8;
    }

    /// How long from `now` until the next free turn, where `at_a_time` are served. Past `most` they are handed
    /// out anew: who comes too early asks again.
    pub(super) fn next_turn(&mut self, now: Instant, at_a_time: usize, most: Duration) -> Duration {
        let apart = self.mean / u32::try_from(at_a_time).unwrap_or(u32::MAX);
        let soonest = now + SHORTEST;
        let next = self.last.map_or(soonest, |last| last + apart);
        let is_within = next >= soonest && next - now <= most;
        let turn = if is_within { next } else { soonest };
        self.last = Some(turn);
        turn - now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pacer, SHORTEST};

    const MOST: Duration = Duration::from_mins(5);

    #[test]
    fn turns_are_as_far_apart_as_the_origin_takes_for_each() {
        let (mut pacer, now) = (Pacer::new(), Instant::now());
        for _ in 0..100 {
            pacer.took(Duration::from_secs(10));
        }
        let turns: Vec<_> = (0..4).map(|_| pacer.next_turn(now, 10, MOST)).collect();
        assert_eq!(turns[0], SHORTEST);
        for pair in turns.windows(2) {
            let apart = pair[1].abs_diff(pair[0]).as_millis();
            assert!((990..=1000).contains(&apart), "{apart} ms");
        }
        // Turns that nobody was handed are not made up for.
        let later = now + Duration::from_mins(10);
        assert_eq!(pacer.next_turn(later, 10, MOST), SHORTEST);
    }

    #[test]
    fn no_turn_is_later_than_the_bound_and_those_after_it_begin_anew() {
        let (mut pacer, now) = (Pacer::new(), Instant::now());
        pacer.took(Duration::from_mins(8));
        let turns: Vec<_> = (0..20).map(|_| pacer.next_turn(now, 1, MOST)).collect();
        assert!(turns.iter().all(|turn| *turn <= MOST), "{turns:?}");
        assert!(turns.iter().filter(|turn| **turn == SHORTEST).count() > 2);
    }
}
