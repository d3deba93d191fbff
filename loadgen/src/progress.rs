//! What a run is doing, while it runs, on standard error: a block that is drawn again and again on
//! a terminal, and a line every few seconds elsewhere.

mod sample;

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::sample::Earlier;
pub(crate) use self::sample::Sample;
use crate::{layout::stderr_width, output::status_line};

/// The redraw interval: short enough for a bar that moves, long enough for numbers to be read.
const REDRAW: Duration = Duration::from_millis(200);

/// The block tells of the last second: of this many redraws.
const WINDOW: usize = 5;

/// The interval of lines.
const LINE: Duration = Duration::from_secs(5);

/// What rates and percentiles are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// The last second, or the time since the last line: for a steady load.
    Recent,
    /// All from the start: for a load that is sent at once.
    SoFar,
}

/// Shows a run while `work` does it. `look` tells what it has done so far; `name` begins each line.
pub(crate) async fn during<F: Future>(
    name: &str,
    span: Span,
    look: impl Fn() -> Sample,
    work: F,
) -> F::Output {
    // Hidden if standard error is no terminal, or one that can't move its cursor (`TERM=dumb`).
    let target = ProgressDrawTarget::stderr();
    if target.is_hidden() {
        while_working(work, tell_lines(name, span, look, status_line)).await
    } else {
        while_working(work, draw(target, span, look)).await
    }
}

async fn while_working<F: Future>(work: F, show: impl Future<Output = Infallible>) -> F::Output {
    tokio::select! {
        output = work => output,
        never = show => match never {},
    }
}

/// A line every five seconds. A run that is shorter needs none: its result follows.
async fn tell_lines(
    name: &str,
    span: Span,
    look: impl Fn() -> Sample,
    mut tell: impl FnMut(&str),
) -> Infallible {
    let started = Instant::now();
    let mut before = look();
    let mut ticks = interval_at(started + LINE, LINE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = started;
    loop {
        ticks.tick().await;
        let (now, sample) = (Instant::now(), look());
        let earlier = Earlier {
            sample: &before,
            ago: now - last,
        };
        let earlier = (span == Span::Recent).then_some(earlier);
        tell(&sample.line(name, now - started, earlier));
        (before, last) = (sample, now);
    }
}

/// The block, until it is dropped, and then cleared.
async fn draw(target: ProgressDrawTarget, span: Span, look: impl Fn() -> Sample) -> Infallible {
    let started = Instant::now();
    let first = look();
    let bar = bar(target, &first);
    bar.tick(); // which draws it
    let mut stage = first.stage;
    let mut samples = VecDeque::from([(started, first)]);
    let mut redraw = interval_at(started + REDRAW, REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        redraw.tick().await;
        let (now, sample) = (Instant::now(), look());
        let earlier = samples.front().map(|(at, sample)| Earlier {
            sample,
            ago: now - *at,
        });
        // Each change draws, so there are as few as possible.
        if sample.stage != stage {
            stage = sample.stage;
            bar.set_message(stage);
            bar.set_length(sample.total);
        }
        bar.set_prefix(block(&sample, earlier.filter(|_| span == Span::Recent)));
        bar.set_position(sample.done);
        if samples.len() == WINDOW {
            samples.pop_front();
        }
        samples.push_back((now, sample));
    }
}

fn block(sample: &Sample, earlier: Option<Earlier<'_>>) -> String {
    fit(&sample.block(earlier), stderr_width())
}

/// The lines as one text, each cut where it would wrap.
fn fit(lines: &[String], width: u16) -> String {
    let cut = |line: &String| line.chars().take(width.into()).collect::<String>();
    lines.iter().map(cut).collect::<Vec<_>>().join("\n")
}

fn bar(target: ProgressDrawTarget, first: &Sample) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:11} {wide_bar} {pos}/{len} {elapsed}\n{prefix}");
    #[expect(clippy::expect_used, reason = "the template is a constant")]
    let style = style.expect("the constant template is valid");
    ProgressBar::with_draw_target(Some(first.total), target)
        .with_style(style)
        .with_message(first.stage)
        .with_prefix(block(first, None))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use tokio::time::{Instant, sleep};

    use super::{Sample, Span, fit, tell_lines, while_working};
    use crate::{answers::FailureCounts, latency::Latencies};

    /// 100 requests are due every second, and none is answered.
    fn sample(elapsed: Duration) -> Sample {
        Sample {
            stage: "requests",
            done: 0,
            total: 0,
            offered: elapsed.as_secs() * 100,
            answers: Latencies::default(),
            failed: FailureCounts::default(),
            jobs: None,
        }
    }

    async fn lines_of(span: Span, run: Duration) -> Vec<String> {
        let (started, lines) = (Instant::now(), RefCell::new(Vec::new()));
        let look = || sample(started.elapsed());
        let tell = |line: &str| lines.borrow_mut().push(line.to_owned());
        while_working(sleep(run), tell_lines("storm", span, look, tell)).await;
        lines.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_told_every_five_seconds_and_none_of_a_shorter_run() {
        let lines = lines_of(Span::Recent, Duration::from_secs(12)).await;
        let answers = "p50 -, p99 -; errors none";
        let expected = [
            format!("storm 5s: 100/s due, 100/s sent, 500 in flight, 0/s ok, {answers}"),
            format!("storm 10s: 100/s due, 100/s sent, 1000 in flight, 0/s ok, {answers}"),
        ];
        assert_eq!(lines, expected);
        assert!(
            lines_of(Span::Recent, Duration::from_secs(4))
                .await
                .is_empty()
        );
        let so_far = lines_of(Span::SoFar, Duration::from_secs(6)).await;
        assert!(
            so_far[0].starts_with("storm 5s: 500 sent, 500 in flight, 0 ok, "),
            "{so_far:?}"
        );
    }

    #[test]
    fn a_line_of_the_block_is_cut_where_it_would_wrap() {
        let lines = ["a short one".to_owned(), "x".repeat(100)];
        assert_eq!(fit(&lines, 20), format!("a short one\n{}", "x".repeat(20)));
    }
}
