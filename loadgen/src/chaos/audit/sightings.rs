//! When the auditor saw each change of the database. It needs no clock but its own.

use jiff::Timestamp;

/// The readings of the last change's number, in order.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    readings: Vec<Reading>,
}

/// Readings of the same number.
#[derive(Debug)]
struct Reading {
    number: i64,
    /// When the first of them was complete: the change was visible by then.
    seen: Timestamp,
    /// When the last of them began: no later change was visible yet.
    nothing_later: Timestamp,
}

impl Sightings {
    /// Adds a reading of `number` that began and ended at these moments.
    pub(super) fn add(&mut self, began: Timestamp, number: i64, ended: Timestamp) {
        match self.readings.last_mut() {
            Some(last) if last.number == number => last.nothing_later = began,
            _ => self.readings.push(Reading {
                number,
                seen: ended,
                nothing_later: began,
            }),
        }
    }

    /// The earliest and the latest moment at which the change with this number was committed; none
    /// if no reading shows both.
    pub(super) fn of(&self, number: i64) -> Option<(Timestamp, Timestamp)> {
        let first = self.readings.partition_point(|it| it.number < number);
        let before = self.readings.get(first.checked_sub(1)?)?;
        Some((before.nothing_later, self.readings.get(first)?.seen))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::Sightings;

    #[test]
    fn a_change_was_made_between_two_readings() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut sightings = Sightings::default();
        for (began, number, ended) in [(1, 0, 2), (3, 0, 4), (5, 2, 6), (7, 2, 8), (9, 3, 10)] {
            sightings.add(at(began), number, at(ended));
        }
        let of = |number| sightings.of(number);
        assert_eq!(of(1), Some((at(3), at(6))));
        assert_eq!(of(2), Some((at(3), at(6))));
        assert_eq!(of(3), Some((at(7), at(10))));
        // No reading shows when the first was not there yet, nor that there is a fourth.
        assert_eq!((of(0), of(4)), (None, None));
    }
}
