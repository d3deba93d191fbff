//! System calls that only Linux has. On other systems the program still builds, for its other
//! commands.

use std::time::Duration;

use anyhow::Result;
use rustix::{
    process::Pid,
    time::{ClockId, clock_gettime},
};

/// The clock by which the store measures waits. Nobody can set it.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// The time since the machine has booted.
pub(super) fn since_boot() -> Duration {
    // Never negative, so this is the time itself.
    Duration::try_from(clock_gettime(SINCE_BOOT)).unwrap_or_default()
}

/// Asks the kernel to kill this process when the thread that started it ends.
#[cfg(target_os = "linux")]
pub(super) fn die_with_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};

    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Limits the size of the files that `process` writes; none removes the limit.
#[cfg(target_os = "linux")]
pub(super) fn limit_files(process: Pid, bytes: Option<u64>) -> Result<()> {
    use rustix::process::{Resource, Rlimit, prlimit};

    let limit = Rlimit {
        current: bytes,
        // A lowered hard limit could not be raised again without privilege (setrlimit(2)), and the
        // fault has to heal.
        maximum: None,
    };
    prlimit(Some(process), Resource::Fsize, limit)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn die_with_parent() -> Result<()> {
    anyhow::bail!("{NEEDED}")
}

#[cfg(not(target_os = "linux"))]
pub(super) fn limit_files(_: Pid, _: Option<u64>) -> Result<()> {
    anyhow::bail!("{NEEDED}")
}

#[cfg(not(target_os = "linux"))]
const NEEDED: &str = "a chaos run needs Linux";
