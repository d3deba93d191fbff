//! A progress bar. It is shown only on a terminal, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::interval;

/// The redraw interval, short enough to look continuous.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows `done` of `total` while `work` runs.
pub(crate) async fn during<F: Future>(
    what: &'static str,
    total: u64,
    done: impl Fn() -> u64,
    work: F,
) -> F::Output {
    let bar = bar(what, total);
    let mut redraw = interval(REDRAW);
    let mut work = std::pin::pin!(work);
    let output = loop {
        tokio::select! {
            output = &mut work => break output,
            _ = redraw.tick() => bar.set_position(done()),
        }
    };
    bar.finish_and_clear();
    output
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    // Hidden if standard error is no terminal, or one that can't move its cursor (`TERM=dumb`).
    let target = ProgressDrawTarget::stderr();
    let style = ProgressStyle::with_template("{msg:11} {wide_bar} {pos}/{len} {elapsed}");
    #[expect(clippy::expect_used, reason = "the template is a constant")]
    let style = style.expect("the constant template is valid");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style)
        .with_message(what)
}
