//! The rate limit of the log: a few lines a minute of each kind, and one with the number of the
//! others.
//!
//! A fault that many jobs meet at once, such as a locked database, would otherwise fill the log
//! with one line for each of them.

use std::{
    collections::HashMap,
    fmt::{self, Debug},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata,
    callsite::Identifier,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::layer::{Context, Filter};

use super::{FATAL, OPERATOR};

/// The lines of one kind that are written within a period.
const MOST: u32 = 5;

const PERIOD: Duration = Duration::from_mins(1);

/// The target of the lines that count others. No filter hides them.
pub(super) const COUNTS: &str = "log";

/// What has been logged lately. Clones share it.
#[derive(Clone, Default)]
pub(super) struct RateLimit(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whether lines are left out. Until then, each is written.
    is_on: bool,
    /// The lines by their place in the code, which bounds this map.
    kinds: HashMap<Identifier, Kind>,
}

struct Kind {
    since: Instant,
    written: u32,
    left_out: u64,
    /// The message of one that was left out.
    message: String,
}

impl RateLimit {
    /// Begins to leave lines out, and to count them every minute.
    pub(super) fn begin(&self) {
        self.state().is_on = true;
        let limit = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PERIOD).await;
                limit.count();
            }
        });
    }

    /// Logs how many lines were left out since the last call.
    pub(super) fn count(&self) {
        // Logged without the lock, which every line takes.
        for (kind, lines) in self.take_left_out() {
            warn!(target: COUNTS, lines, kind, "more lines of this kind were left out");
        }
    }

    fn take_left_out(&self) -> Vec<(String, u64)> {
        let mut state = self.state();
        let kinds = state.kinds.values_mut().filter(|kind| kind.left_out > 0);
        let left_out =
            |kind: &mut Kind| (mem::take(&mut kind.message), mem::take(&mut kind.left_out));
        kinds.map(left_out).collect()
    }

    /// Whether to write this line.
    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        // More detail was asked for by name.
        let is_detail = *metadata.level() > Level::INFO;
        if is_detail || [FATAL, OPERATOR, COUNTS].contains(&metadata.target()) {
            return true;
        }
        let mut state = self.state();
        if !state.is_on {
            return true;
        }
        let now = Instant::now();
        let kind = state.kinds.entry(metadata.callsite());
        let kind = kind.or_insert_with(|| Kind {
            since: now,
            written: 0,
            left_out: 0,
            message: String::new(),
        });
        if now - kind.since >= PERIOD {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written < MOST {
            kind.written += 1;
            return true;
        }
        if kind.left_out == 0 {
            event.record(&mut Message(&mut kind.message));
        }
        kind.left_out += 1;
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counts stay valid if a holder panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admits(event)
    }
}

/// Takes the message out of an event.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A String takes every write.
            let _ = fmt::write(self.0, format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing::{debug, error, info, subscriber, warn};
    use tracing_subscriber::{Layer as _, fmt, layer::SubscriberExt as _};

    use super::{FATAL, MOST, PERIOD, RateLimit};

    /// The lines that `log` writes through `limit`.
    fn lines(limit: &RateLimit, log: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let layer = fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .with_filter(limit.clone());
        subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn begun() -> RateLimit {
        let limit = RateLimit::default();
        limit.0.lock().unwrap().is_on = true;
        limit
    }

    #[test]
    fn before_it_begins_every_line_is_written() {
        let flood = || (0..100).for_each(|number| warn!(number, "a setting is doubtful"));
        assert_eq!(lines(&RateLimit::default(), flood).len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn of_each_kind_a_few_lines_are_written_in_a_minute_and_the_others_are_counted() {
        let limit = begun();
        let flood = || {
            for number in 0..1000 {
                warn!(number, "a write is retried");
                if number < 2 {
                    error!("the other kind");
                }
                debug!("asked for");
            }
            info!("a third kind");
        };
        let most = MOST as usize;
        let written = lines(&limit, flood);
        let count = |word: &str| written.iter().filter(|line| line.contains(word)).count();
        assert_eq!(count("a write is retried"), most);
        assert_eq!((count("the other kind"), count("a third kind")), (2, 1));
        assert_eq!(count("asked for"), 1000);

        let counted = lines(&limit, || limit.count());
        assert_eq!(counted.len(), 1, "{counted:?}");
        assert!(counted[0].contains("kind=\"a write is retried\""));
        let left_out = format!("lines={}", 1000 - most);
        assert!(counted[0].contains(&left_out), "{counted:?}");
        assert!(lines(&limit, || limit.count()).is_empty(), "once");

        tokio::time::advance(PERIOD).await;
        let again = lines(&limit, flood);
        let again = again.iter().filter(|line| line.contains("retried"));
        assert_eq!(again.count(), most);
    }

    #[test]
    fn the_error_that_ends_the_process_is_always_written() {
        let flood = || (0..100).for_each(|_| error!(target: FATAL, "the service failed"));
        assert_eq!(lines(&begun(), flood).len(), 100);
    }
}
