//! The filter of the log: `LOG`.

use std::collections::HashSet;

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The levels by name, the least verbose first.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

/// Which events are logged: one level for all targets, and levels for single ones.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter(Targets);

/// Why a text is not a filter, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0}; expected trace, debug, info, warn, error or off, or a comma-separated list with \
     TARGET=LEVEL, such as storm_worker=debug,info"
)]
pub struct LogFilterError(String);

impl LogFilter {
    /// Parses a level, `TARGET=LEVEL`, or several of them separated by commas.
    ///
    /// # Errors
    /// The first directive that is not accepted. A word that is no level would otherwise be a
    /// target, and such a filter hides the log.
    pub fn parse(text: &str) -> Result<Self, LogFilterError> {
        let mut targets = Targets::new();
        let mut seen = HashSet::new();
        for directive in text.split(',').map(str::trim) {
            let (target, level) = match directive.split_once('=') {
                Some((target, level)) => (Some(parse_target(target.trim())?), level.trim()),
                None => (None, directive),
            };
            if !seen.insert(target) {
                let twice = target.map_or("the level for all targets".to_owned(), quoted);
                return Err(LogFilterError(format!("{twice} is set twice")));
            }
            let level = parse_level(level)?;
            targets = match target {
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            };
        }
        Ok(Self(targets))
    }

    /// The filter with events of `targets` enabled up to these levels, whatever it says of them.
    pub(crate) fn with(
        &self,
        targets: impl IntoIterator<Item = (&'static str, LevelFilter)>,
    ) -> Targets {
        self.0.clone().with_targets(targets)
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, LogFilterError> {
    LEVELS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, level)| *level)
        .ok_or_else(|| match text {
            "" => LogFilterError("a level is missing".to_owned()),
            _ => LogFilterError(format!("{} is not a level", quoted(text))),
        })
}

/// A target is the path of a Rust module. A crate's name has no hyphen there: `storm-api=debug`
/// would match nothing.
fn parse_target(text: &str) -> Result<&str, LogFilterError> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if !text.is_empty() && text.chars().all(is_of_path) {
        return Ok(text);
    }
    let problem = format!("{} is not a target, such as storm_api", quoted(text));
    Err(LogFilterError(problem))
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use tracing::{Level, level_filters::LevelFilter};

    use super::LogFilter;

    #[test]
    fn a_log_filter_has_levels_only_and_anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "",
            ",",
            "warning",
            "information",
            "verbose",
            "3",
            "true",
            "info,",
            ",info",
            "info,,storm_api=debug",
            "storm_api",
            "storm_api=",
            "=info",
            "storm_api=louder",
            "storm-api=debug",
            "info storm_api=debug",
            "storm_api=debug=info",
            "[span]=info",
            "info,debug",
            "storm_api=info,storm_api=debug",
            "info;debug",
            "\"info\"",
            "info # all",
        ] {
            let error = LogFilter::parse(text).unwrap_err().to_string();
            for accepted in ["trace, debug, info, warn, error or off", "TARGET=LEVEL"] {
                assert!(error.contains(accepted), "{text}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
        for text in [
            "off",
            "error",
            "WARN",
            "Info",
            "debug",
            "trace",
            "storm_api=debug",
        ] {
            LogFilter::parse(text).unwrap();
        }
    }

    #[test]
    fn a_level_for_one_target_overrides_the_level_for_all() {
        let LogFilter(targets) = LogFilter::parse("storm_worker::delivery=debug, warn").unwrap();
        assert!(targets.would_enable("storm_worker::delivery::client", &Level::DEBUG));
        assert!(targets.would_enable("redis", &Level::WARN));
        assert!(!targets.would_enable("storm_worker", &Level::INFO));
    }

    #[test]
    fn no_filter_hides_a_fatal_error() {
        for text in ["off", "storm_api=debug", "fatal=off", "error,fatal=off"] {
            let targets = LogFilter::parse(text)
                .unwrap()
                .with([("fatal", LevelFilter::ERROR)]);
            assert!(targets.would_enable("fatal", &Level::ERROR), "{text}");
        }
    }
}
