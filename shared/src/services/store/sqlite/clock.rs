//! The store's own clock, by which jobs wait.
//!
//! The wall clock can be set in either direction, so no wait is measured by it. Store time is what
//! the kernel counts since it booted (`CLOCK_BOOTTIME`), which only goes forward, also while the
//! machine sleeps. The table `clock` holds the anchor: which moment since which boot is which store
//! time. All processes of one boot read the same anchor, so they agree to the millisecond.
//!
//! The first process after a boot sets a new anchor: the last store time that was saved, plus the
//! time that has passed since by the wall clock, if that has not gone back. So store time never
//! runs backwards, and no wait becomes longer by a clock that is set.

use std::{
    fs,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// How often the time is saved. A boot continues from a time that may be this old.
const SAVE_PERIOD: i64 = 1000;

/// `CLOCK_BOOTTIME` counts while the machine sleeps. On macOS, `CLOCK_MONOTONIC` does.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// A moment by the store's clock, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoreTime(i64);

impl StoreTime {
    /// The moment that is stored as `millis`.
    pub(super) fn stored(millis: i64) -> Self {
        Self(millis)
    }

    /// As it is stored.
    pub(super) fn millis(self) -> i64 {
        self.0
    }

    /// The moment after `wait`.
    pub(super) fn after(self, wait: Duration) -> Self {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(wait))
    }

    /// The moment before `time`.
    pub(super) fn before(self, time: Duration) -> Self {
        let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(time))
    }

    /// The time from `earlier` to this moment; zero if that is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        let millis = self.0.saturating_sub(earlier.0);
        Duration::from_millis(millis.try_into().unwrap_or(0))
    }
}

/// The clock of an open store.
#[derive(Debug)]
pub(super) struct Clock {
    /// Store time minus the time since the boot, in milliseconds.
    offset: i64,
    /// The store time that was saved last.
    saved: AtomicI64,
}

impl Clock {
    /// Reads the anchor, or sets it if the machine has booted since.
    pub(super) fn start(connection: &mut Connection) -> rusqlite::Result<Self> {
        let boot = boot_id();
        // Mostly there is nothing to write, and so no lock to wait for.
        if let Some(clock) = Self::of_this_boot(connection, &boot)? {
            return Ok(clock);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Again, under the write lock: another process may have been first.
        let clock = match Self::of_this_boot(&transaction, &boot)? {
            Some(clock) => clock,
            None => Self::anchor(&transaction, &boot)?,
        };
        transaction.commit()?;
        Ok(clock)
    }

    fn of_this_boot(connection: &Connection, boot: &str) -> rusqlite::Result<Option<Self>> {
        connection
            .query_row(
                "SELECT store_time - since_boot, saved FROM clock WHERE boot = ?1",
                [boot],
                |row| {
                    Ok(Self {
                        offset: row.get(0)?,
                        saved: AtomicI64::new(row.get(1)?),
                    })
                },
            )
            .optional()
    }

    fn anchor(connection: &Connection, boot: &str) -> rusqlite::Result<Self> {
        let saved = connection
            .query_row("SELECT saved, saved_wall FROM clock", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (wall, since_boot) = (Timestamp::now().as_millisecond(), since_boot());
        let store_time = continued(saved, wall);
        connection.execute(
            "INSERT OR REPLACE INTO clock (one, boot, since_boot, store_time, saved, saved_wall)
             VALUES (1, ?1, ?2, ?3, ?3, ?4)",
            params![boot, since_boot, store_time, wall],
        )?;
        Ok(Self {
            offset: store_time - since_boot,
            saved: AtomicI64::new(store_time),
        })
    }

    /// The current moment.
    pub(super) fn now(&self) -> StoreTime {
        StoreTime(since_boot().saturating_add(self.offset))
    }

    /// What the wall clock would say at `moment`, if nobody sets it until then.
    pub(super) fn wall(&self, moment: StoreTime) -> Timestamp {
        let ahead = SignedDuration::from_millis(moment.0.saturating_sub(self.now().0));
        Timestamp::now()
            .saturating_add(ahead)
            .unwrap_or(Timestamp::MAX)
    }

    /// Saves the time, once a second, in a transaction that commits other writes.
    pub(super) fn save(&self, transaction: &Connection) -> rusqlite::Result<()> {
        let now = self.now().0;
        // Relaxed: the time orders nothing else.
        if now.saturating_sub(self.saved.load(Ordering::Relaxed)) < SAVE_PERIOD {
            return Ok(());
        }
        transaction
            .prepare_cached("UPDATE clock SET saved = ?1, saved_wall = ?2 WHERE saved < ?1")?
            .execute([now, Timestamp::now().as_millisecond()])?;
        self.saved.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// A clock that is not saved, for a database without the table.
    #[cfg(test)]
    pub(super) fn unsaved() -> Self {
        Self {
            offset: 0,
            saved: AtomicI64::new(i64::MAX),
        }
    }
}

/// The store time at which a boot begins, at `wall`. Before the first one it is that, too.
fn continued(saved: Option<(i64, i64)>, wall: i64) -> i64 {
    let Some((saved, saved_wall)) = saved else {
        return wall;
    };
    // Up to a period more had passed when the machine went down.
    let passed = wall.saturating_sub(saved_wall).max(SAVE_PERIOD);
    saved.saturating_add(passed)
}

/// The time since the boot in milliseconds.
fn since_boot() -> i64 {
    let time = clock_gettime(SINCE_BOOT);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// Names this boot of the machine.
fn boot_id() -> String {
    // Without a name each start takes its own: it continues from the saved time, as after a boot.
    system_boot_id().unwrap_or_else(|| Uuid::new_v4().to_string())
}

/// random(4): the kernel makes it at boot. Containers share it with their host.
#[cfg(target_os = "linux")]
fn system_boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// sysctl(3): `KERN_BOOTSESSIONUUID`.
#[cfg(not(target_os = "linux"))]
fn system_boot_id() -> Option<String> {
    let mut sysctl = std::process::Command::new("sysctl");
    let output = sysctl.args(["-n", "kern.bootsessionuuid"]).output().ok()?;
    let id = String::from_utf8(output.stdout).ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use rusqlite::Connection;

    use super::{Clock, SAVE_PERIOD, StoreTime, continued};
    use crate::services::store::sqlite::schema;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    #[test]
    fn all_starts_of_one_boot_agree() {
        let mut connection = database();
        let first = Clock::start(&mut connection).unwrap();
        thread::sleep(Duration::from_millis(5));
        let second = Clock::start(&mut connection).unwrap();
        assert_eq!(first.offset, second.offset);
    }

    #[test]
    fn a_boot_continues_from_the_saved_time_and_never_goes_back() {
        const DAY: i64 = 86_400_000;
        let (saved, wall) = (5000, 1_700_000_000_000);
        assert_eq!(continued(None, wall), wall);
        for (wall_now, passed) in [
            (wall, SAVE_PERIOD),
            (wall + DAY, DAY),
            (wall - DAY, SAVE_PERIOD),
            (i64::MIN, SAVE_PERIOD),
        ] {
            assert_eq!(continued(Some((saved, wall)), wall_now), saved + passed);
        }
    }

    #[test]
    fn after_another_boot_the_clock_goes_on() {
        let mut connection = database();
        let before = Clock::start(&mut connection).unwrap().now();
        // Another boot, whose clock counts from zero, with the wall clock set back by a day.
        connection
            .execute_batch(
                "UPDATE clock SET boot = 'another', since_boot = 10, saved_wall = saved_wall + 86400000",
            )
            .unwrap();
        let clock = Clock::start(&mut connection).unwrap();
        let (now, most) = (
            clock.now(),
            Duration::from_millis(SAVE_PERIOD.unsigned_abs()),
        );
        assert!(now >= before, "{now:?} {before:?}");
        assert!(now <= before.after(most + Duration::from_mins(1)));
        assert_eq!(
            connection
                .query_row("SELECT count(*) FROM clock", [], |row| row.get::<_, i64>(0))
                .unwrap(),
            1
        );
    }

    #[test]
    fn the_time_is_saved_at_most_once_a_second() {
        let mut connection = database();
        let clock = Clock::start(&mut connection).unwrap();
        let saved = |connection: &Connection| -> i64 {
            let saved = connection.query_row("SELECT saved FROM clock", [], |row| row.get(0));
            saved.unwrap()
        };
        let first = saved(&connection);
        clock.save(&connection).unwrap();
        assert_eq!(saved(&connection), first);
        clock
            .saved
            .fetch_sub(SAVE_PERIOD, std::sync::atomic::Ordering::Relaxed);
        clock.save(&connection).unwrap();
        assert!(saved(&connection) >= first);
    }

    #[test]
    fn a_moment_is_shown_by_the_wall_clock_of_now() {
        let clock = Clock::start(&mut database()).unwrap();
        let in_a_minute = clock.now().after(Duration::from_mins(1));
        let shown = clock.wall(in_a_minute);
        let ahead = shown.duration_since(jiff::Timestamp::now());
        assert!((59..=60).contains(&ahead.as_secs()), "{ahead}");
        let never = StoreTime::stored(i64::MAX);
        assert_eq!(clock.wall(never), jiff::Timestamp::MAX);
        assert_eq!(clock.now().since(never), Duration::ZERO);
    }
}
