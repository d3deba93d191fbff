//! What a run asks of the system that only Linux can do. Elsewhere the program is built too, for its
//! other commands.

use anyhow::Result;
use rustix::process::Pid;

/// Sees to it that this process is killed when the thread that started it ends.
#[cfg(target_os = "linux")]
pub(super) fn die_with_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};

    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Limits the size of every file that `process` writes to; none is no limit.
#[cfg(target_os = "linux")]
pub(super) fn limit_files(process: Pid, bytes: Option<u64>) -> Result<()> {
    use rustix::process::{Resource, Rlimit, prlimit};

    let limit = Rlimit {
        current: bytes,
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
