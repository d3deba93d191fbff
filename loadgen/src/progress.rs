//! A progress bar. It is shown only on a terminal.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

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
    // If either is redirected, as in a script, no bar is shown.
    let target = if io::stderr().is_terminal() && io::stdout().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg:18} {wide_bar} {pos}/{len} {elapsed}");
    #[expect(clippy::expect_used, reason = "the template is a constant")]
    let style = style.expect("the constant template is valid");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style)
        .with_message(what)
}
