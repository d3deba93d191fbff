//! A process that dies with the one that started it, also if that one is killed.
//!
//! The kernel can send a signal to a child when its parent is gone, but the child must ask for it. So
//! this program starts itself, asks, and becomes the program that was meant.

use std::{
    convert::Infallible,
    ffi::OsString,
    os::unix::process::{CommandExt as _, parent_id},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::host;

/// Becomes `program`, to be killed when process `parent` ends.
///
/// # Errors
/// The program can't be run, or the parent has ended already.
pub fn become_child(parent: u32, program: &OsString, arguments: &[OsString]) -> Result<Infallible> {
    host::die_with_parent().context("can't tether this process")?;
    // It may have ended before the kernel was asked.
    if parent_id() != parent {
        bail!("the process that wanted {} is gone", program.display());
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("can't run {}", program.display()))
}
