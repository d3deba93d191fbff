//! The wall clock of the services. libfaketime stands between them and the host's clock, so that a
//! run can step it. All services have the same clock, as on one host.

use std::{
    fs,
    path::{self, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use storm_shared::services::signature::TOLERANCE;

use super::clock;

/// How long each process uses an offset before it reads the file again, in seconds. Without this
/// every reading of the clock would open the file.
const CACHED_SECONDS: &str = "1";

/// How long after a step a service may still use the old offset: it was frozen, or had no time.
const FOLLOWS_WITHIN: Duration = Duration::from_mins(1);

/// The services' wall clock. Clones share it. By default it is the host's, and can't be stepped.
#[derive(Clone, Debug, Default)]
pub(super) struct WallClock {
    faked: Option<Arc<FakedClock>>,
}

#[derive(Debug)]
struct FakedClock {
    library: PathBuf,
    /// The offset that libfaketime reads.
    file: PathBuf,
    steps: Mutex<Vec<Step>>,
}

/// A step, and the offset to the host's clock from then on.
#[derive(Clone, Copy, Debug)]
struct Step {
    at: Timestamp,
    offset: SignedDuration,
}

impl WallClock {
    /// A clock that can be stepped with `library`, libfaketime, and a file in `folder`.
    ///
    /// # Errors
    /// There is no such library, or the file can't be written.
    pub(super) fn steppable(library: &Path, folder: &Path) -> Result<Self> {
        // The dynamic linker would only warn of a library that is not there.
        ensure!(library.is_file(), "there is no {}", library.display());
        let faked = FakedClock {
            library: path::absolute(library)?,
            file: path::absolute(folder)?.join("clock"),
            steps: Mutex::default(),
        };
        faked.set(SignedDuration::ZERO)?;
        Ok(Self {
            faked: Some(Arc::new(faked)),
        })
    }

    pub(super) fn is_steppable(&self) -> bool {
        self.faked.is_some()
    }

    /// What a service has in its environment to use this clock.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let Some(faked) = &self.faked else {
            return Vec::new();
        };
        vec![
            ("LD_PRELOAD", faked.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", faked.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", CACHED_SECONDS.to_owned()),
            // CLOCK_MONOTONIC and CLOCK_BOOTTIME stay the kernel's.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// Steps the clock by whole seconds. The services follow within seconds.
    ///
    /// # Errors
    /// The clock can't be stepped, or the file can't be written.
    pub(super) fn step(&self, by: SignedDuration) -> Result<()> {
        let faked = self.faked.as_ref().context("the clock can't be stepped")?;
        faked.set(self.offset() + by)
    }

    /// The current offset to the host's clock.
    pub(super) fn offset(&self) -> SignedDuration {
        let steps = self.faked.as_ref().map(|faked| faked.steps());
        let last = steps.and_then(|steps| steps.last().copied());
        last.map_or(SignedDuration::ZERO, |step| step.offset)
    }

    /// What the clock says now; then what it would say now by each offset that a callback which
    /// arrives now may have been signed with, the newest first.
    pub(super) fn readings(&self) -> Vec<Timestamp> {
        let Some(faked) = &self.faked else {
            return vec![Timestamp::now()];
        };
        let (now, host) = (clock::now(), Timestamp::now());
        let mut readings = Vec::new();
        for step in faked.steps().iter().rev() {
            readings.extend(host.checked_add(step.offset));
            // Receivers accept no older signature, so no older step matters.
            if step.at + TOLERANCE + FOLLOWS_WITHIN < now {
                break;
            }
        }
        readings
    }
}

impl FakedClock {
    fn set(&self, offset: SignedDuration) -> Result<()> {
        let mut steps = self.steps();
        // Before the file, so that no service is ahead of the receivers.
        steps.push(Step {
            at: clock::now(),
            offset,
        });
        // Renamed, so that no service reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}", offset.as_secs()))
            .and_then(|()| fs::rename(&new, &self.file))
            .with_context(|| format!("can't write {}", self.file.display()))
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        // A push either happens or not, so the list stays valid if a holder panics.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what libfaketime leaves of a process that was killed. A later process with this id could
/// not start otherwise.
pub(super) fn remove_traces(process: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // Mostly there is none: a process that ends by itself removes them.
        let _ = fs::remove_file(format!("/dev/shm/{name}{process}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use jiff::{SignedDuration, Timestamp};
    use tempfile::TempDir;

    use super::{FOLLOWS_WITHIN, TOLERANCE, WallClock};

    fn steppable(folder: &TempDir) -> WallClock {
        // Any file: no process is started.
        WallClock::steppable(&env::current_exe().unwrap(), folder.path()).unwrap()
    }

    #[test]
    fn steps_add_up_in_the_file() {
        let folder = TempDir::new().unwrap();
        let clock = steppable(&folder);
        let file = || fs::read_to_string(folder.path().join("clock")).unwrap();
        assert_eq!(file(), "+0");
        clock.step(SignedDuration::from_secs(5)).unwrap();
        assert_eq!(file(), "+5");
        clock.step(SignedDuration::from_hours(-72)).unwrap();
        assert_eq!(file(), "-259195");
        assert_eq!(clock.offset(), SignedDuration::from_secs(-259_195));
    }

    #[test]
    fn a_library_that_does_not_exist_is_refused() {
        let folder = TempDir::new().unwrap();
        let missing = WallClock::steppable(&folder.path().join("missing"), folder.path());
        assert!(missing.unwrap_err().to_string().contains("there is no"));
        let hosts = WallClock::default();
        assert!(!hosts.is_steppable() && hosts.environment().is_empty());
        hosts.step(SignedDuration::from_secs(1)).unwrap_err();
    }

    const HALF_HOUR: SignedDuration = SignedDuration::from_mins(30);

    #[test]
    fn it_has_the_readings_of_the_time_in_which_a_signature_is_valid() {
        let folder = TempDir::new().unwrap();
        let clock = steppable(&folder);
        for hours in [1, 1, -5] {
            clock.step(SignedDuration::from_hours(hours)).unwrap();
        }
        let hours = || -> Vec<_> {
            let now = Timestamp::now();
            let readings = clock.readings().into_iter();
            let ahead = readings.map(|reading| reading.duration_since(now) + HALF_HOUR);
            ahead
                .map(|ahead| ahead.as_secs().div_euclid(3600))
                .collect()
        };
        assert_eq!(hours(), [-3, 2, 1, 0]);
        // Two of the steps are old. The newer of them was in effect until the third.
        for step in &mut clock.faked.as_ref().unwrap().steps()[..3] {
            step.at -= TOLERANCE + FOLLOWS_WITHIN;
        }
        assert_eq!(hours(), [-3, 2]);
        assert_eq!(WallClock::default().readings().len(), 1);
    }
}
