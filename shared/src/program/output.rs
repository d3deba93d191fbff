//! Standard output, whose reader may be gone and whose disk may be full.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use super::print_error;

/// Prints a text on standard output. Returns the exit status: that of a failure if the text can't
/// be written. A closed pipe is none: its reader has seen enough.
pub(super) fn print(text: &[u8]) -> ExitCode {
    let mut stdout = io::stdout();
    // Flushed here: the flush at the exit of the process ignores errors.
    status(stdout.write_all(text).and_then(|()| stdout.flush()))
}

/// Prints what clap has in place of arguments: help, the version, or an error in the arguments.
/// Returns the exit status.
pub fn print_clap(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if error.use_stderr() {
        // A closed standard error leaves nowhere to report that to.
        return ExitCode::from(super::USAGE_ERROR);
    }
    status(printed.and_then(|()| io::stdout().flush()))
}

fn status(written: io::Result<()>) -> ExitCode {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            print_error(&format_args!("can't write to standard output: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
