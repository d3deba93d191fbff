//! A bar on a terminal, nothing in a pipe.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::interval;

/// How often a bar is moved: as often as an eye notices.
const REDRAW: Duration = Duration::from_millis(100);

/// Shows how far `work` is, as `done` of `total`, until it ends.
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
    let target = if io::stderr().is_terminal() && io::stdout().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg:18} {wide_bar} {pos}/{len} {elapsed}");
    let style = style.expect("the template is a constant, and the library accepts it");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style)
        .with_message(what)
}
