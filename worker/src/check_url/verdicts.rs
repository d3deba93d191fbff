//! Batch mode: one verdict per line.

use std::{
    io::{self, BufWriter, Read, Write},
    pin::pin,
    process::ExitCode,
    thread,
};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::{
    checker::{Checker, UrlVerdict},
    lines::{self, Line},
};
use crate::delivery::SystemResolver;

/// Concurrency limit of checks, equal to that of look-ups.
const AT_A_TIME: usize = SystemResolver::MAX_LOOKUPS;

/// The most batches of lines to read ahead (backpressure on the input).
const AHEAD: usize = 2;

/// Reads one URL per line from `input` and writes one verdict per line to `output`, in the same
/// order. Each verdict is written as soon as it and all before it are known. Returns the exit
/// status.
///
/// # Errors
/// Reading `input` fails, reported after the verdicts on all earlier lines; or writing `output`
/// fails.
pub async fn judge_lines(
    checker: &Checker,
    input: impl Read + Send + 'static,
    output: impl Write,
) -> io::Result<ExitCode> {
    let mut failure = None;
    let lines = stream::unfold(read_ahead(input), async |mut batches| {
        batches.recv().await.map(|batch| (batch, batches))
    })
    .flat_map(stream::iter);
    let mut verdicts = pin!(lines.map(|line| judge(checker, line)).buffered(AT_A_TIME));
    let mut output = BufWriter::new(output);
    loop {
        let mut next = verdicts.next();
        let verdict = if let Some(known) = (&mut next).now_or_never() {
            known
        } else {
            output.flush()?; // a reader may wait for these verdicts before it sends more
            next.await
        };
        match verdict {
            Some(Ok(UrlVerdict::Allow)) => writeln!(output, "allow")?,
            Some(Ok(UrlVerdict::Deny(rule))) => writeln!(output, "deny\t{rule}")?,
            Some(Err(error)) => failure = Some(error),
            None => break,
        }
    }
    output.flush()?;
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Reads the lines of `input` on a separate thread, because a blocking read cannot be cancelled.
/// The process does not wait for that thread when it exits.
fn read_ahead(input: impl Read + Send + 'static) -> mpsc::Receiver<Vec<io::Result<Line>>> {
    let (send, receive) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let hand_over = |lines: Vec<Line>| {
            let lines = lines.into_iter().map(Ok).collect();
            send.blocking_send(lines).is_ok()
        };
        if let Err(error) = lines::read(input, hand_over) {
            let _ = send.blocking_send(vec![Err(error)]); // fails if the receiver is gone
        }
    });
    receive
}

async fn judge(checker: &Checker, line: io::Result<Line>) -> io::Result<UrlVerdict> {
    Ok(match line? {
        Line::TooLong => UrlVerdict::Deny("too_long"),
        Line::Bytes(bytes) => match str::from_utf8(&bytes) {
            Ok(text) => checker.verdict(text).await,
            Err(_) => UrlVerdict::Deny("not_utf8"),
        },
    })
}
