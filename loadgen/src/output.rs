//! Standard output and standard error. Unlike `println!`, a write that fails does not panic.

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
};

use anyhow::{Context as _, Result};

use crate::layout::{Layout, one_line};

/// Prints a text in the layout of standard output.
///
/// A reader that is gone, as with `| head -1`, is no error: it has what it wanted.
///
/// # Errors
/// The text can't be written, for example to a file on a full disk.
pub fn print(text: &str) -> Result<()> {
    print_to_reader(text).map(drop)
}

/// The same; breaks if the reader is gone. What follows will not be read either.
///
/// # Errors
/// The text can't be written.
pub fn print_to_reader(text: &str) -> Result<ControlFlow<()>> {
    write(&Layout::of_stdout().apply(text))
}

/// Prints text that must not be laid out: a path or a document to copy.
///
/// # Errors
/// The text can't be written.
pub fn print_raw(text: &str) -> Result<()> {
    write(text).map(drop)
}

fn write(text: &str) -> Result<ControlFlow<()>> {
    let mut stdout = io::stdout().lock();
    // Flushed here: the flush at the exit of the process ignores errors.
    let written = stdout.write_all(text.as_bytes());
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error).context("can't write to standard output"),
    }
}

/// Prints a line of progress. A failure is ignored: the result is printed, too, and then reported.
pub(crate) fn progress_line(line: &str) {
    let _ = print(line);
}

/// Prints a line on standard error that is no error: what a run is doing.
pub(crate) fn status_line(line: &str) {
    // In one write, so that no other output cuts the line. A closed standard error leaves nowhere
    // to report that to.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints an error as one line on standard error.
pub fn complain(error: &anyhow::Error) {
    let line = one_line(&format!("storm-loadgen: {error:#}"));
    // A closed standard error leaves nowhere to report that to.
    let _ = writeln!(io::stderr(), "{line}");
}
