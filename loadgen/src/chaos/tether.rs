//! Tethers a child process to its parent: the kernel kills it when the parent dies, even by
//! SIGKILL.
//!
//! Linux signals a child on its parent's death only if the child asks for it
//! (`PR_SET_PDEATHSIG`). So this program starts itself, asks, and then executes the target program.

use std::{
    convert::Infallible,
    ffi::OsString,
    os::unix::process::{CommandExt as _, parent_id},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::host;

/// Executes `program` in place of this one, to be killed when process `parent` ends.
///
/// # Errors
/// The program can't be executed, or the parent has already exited.
pub fn become_child(parent: u32, program: &OsString, arguments: &[OsString]) -> Result<Infallible> {
    host::die_with_parent().context("can't tether this process")?;
    // The race: the parent may have died before the request to the kernel.
    if parent_id() != parent {
        bail!("the parent process of {} has exited", program.display());
    }
    // The kernel keeps the request across `execve` (prctl(2)).
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("can't run {}", program.display()))
}
