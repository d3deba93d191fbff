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

/// The processes that `parent` has started, as far as they still run.
#[cfg(feature = "postgres")]
pub(super) fn children(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = ids.filter_map(Pid::from_raw);
    children
        .filter(|child| parent_of(*child) == Some(parent))
        .collect()
}

/// Whether this process runs: a dead one that its parent has not asked for does not.
#[cfg(feature = "postgres")]
pub(super) fn is_running(process: Pid) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z")
}

#[cfg(feature = "postgres")]
fn parent_of(process: Pid) -> Option<Pid> {
    let (_, parent) = stat(process)?;
    Pid::from_raw(parent)
}

/// The state and the parent of a process (proc(5)).
#[cfg(feature = "postgres")]
fn stat(process: Pid) -> Option<(String, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before them is in brackets, and may have spaces and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
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

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, getpid};

    use super::{children, is_running};

    #[test]
    fn a_child_runs_until_it_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(children(getpid()).contains(&pid) && is_running(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running(pid) && !children(getpid()).contains(&pid));
    }
}
