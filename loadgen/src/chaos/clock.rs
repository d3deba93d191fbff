//! The clock of a run: the wall clock as it was at the start, and what the kernel has counted
//! since. Unlike the wall clock it can't be set, so it orders all records of a history.

use std::{sync::LazyLock, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::host;

/// The first reading: the wall clock, and the time since the boot.
static START: LazyLock<(Timestamp, Duration)> =
    LazyLock::new(|| (Timestamp::now(), host::since_boot()));

/// The current moment.
pub(super) fn now() -> Timestamp {
    // First, or a first call would be before its own start.
    LazyLock::force(&START);
    since_boot(host::since_boot())
}

/// The moment at which this time has passed since the boot.
pub(super) fn since_boot(time: Duration) -> Timestamp {
    let (wall, start) = *START;
    let passed = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
        - SignedDuration::try_from(start).unwrap_or(SignedDuration::ZERO);
    wall.saturating_add(passed).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{now, since_boot};
    use crate::chaos::host;

    #[test]
    fn it_agrees_with_the_time_since_the_boot() {
        let before = now();
        let between = since_boot(host::since_boot());
        assert!(before <= between && between <= now());
        let later = since_boot(host::since_boot() + Duration::from_hours(1));
        assert!(later > before + Duration::from_mins(59));
        assert!(since_boot(Duration::ZERO) <= before);
    }
}
