//! A verdict a line.

use std::{
    io::{self, BufWriter, Read, Write},
    pin::pin,
    process::ExitCode,
    thread,
};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::{
    Checker, UrlVerdict,
    lines::{self, Line},
};
use crate::delivery::SystemResolver;

/// URLs that are judged at a time: as many as there are look-ups at a time.
const AT_A_TIME: usize = SystemResolver::MAX_LOOKUPS;

/// Bunches of lines that are read ahead.
const AHEAD: usize = 2;

/// Reads a URL a line from `input` and writes a verdict a line to `output`, in the same order, each as soon
/// as it and those before it are known. What it gives is the process' exit status.
///
/// # Errors
/// `input` can't be read, once the lines before have their verdicts; or `output` takes no more.
pub async fn judge_lines(
    checker: &Checker,
    input: impl Read + Send + 'static,
    output: impl Write,
) -> io::Result<ExitCode> {
    let mut failure = None;
    let lines = stream::unfold(read_ahead(input), async |mut bunches| {
        bunches.recv().await.map(|bunch| (bunch, bunches))
    })
    .flat_map(stream::iter);
    let mut verdicts = pin!(lines.map(|line| judge(checker, line)).buffered(AT_A_TIME));
    let mut output = BufWriter::new(output);
    loop {
        let mut next = verdicts.next();
        let verdict = if let Some(known) = (&mut next).now_or_never() {
            known
        } else {
            output.flush()?; // somebody may wait for what is known by now
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

/// The lines of `input`, read on a thread of their own: nothing ends a blocking read, and the process
/// doesn't wait for that thread at its end.
fn read_ahead(input: impl Read + Send + 'static) -> mpsc::Receiver<Vec<io::Result<Line>>> {
    let (send, receive) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let hand_over = |lines: Vec<Line>| {
            let lines = lines.into_iter().map(Ok).collect();
            send.blocking_send(lines).is_ok()
        };
        if let Err(error) = lines::read(input, hand_over) {
            let _ = send.blocking_send(vec![Err(error)]); // or nobody listens any more
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
