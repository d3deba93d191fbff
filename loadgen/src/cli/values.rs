//! Parsers of single option values. Each error says what is accepted.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyper::StatusCode;
use storm_shared::models::{HandlerName, HandlerNameError, Mode, Records};

use crate::thresholds::{Run, Threshold};

/// The most requests in one storm.
pub const MAX_REQUESTS: u64 = 2_000_000;

/// The upper limit of every duration option.
const LONGEST: Duration = Duration::from_hours(1);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    storm_shared::duration::parse(text)
        .filter(|duration| (Duration::from_millis(1)..=LONGEST).contains(duration))
        .ok_or_else(|| {
            "it must be a number and a unit, from 1ms to 1h, such as 10s or 250ms".to_owned()
        })
}

pub(super) fn mode() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new([Mode::Sync.as_str(), Mode::Async.as_str()])
        .try_map(|word| word.parse::<Mode>())
}

pub(super) fn handler(text: &str) -> Result<HandlerName, String> {
    let name: HandlerName = text
        .parse()
        .map_err(|error: HandlerNameError| error.to_string())?;
    if name == HandlerName::REPORT {
        return Err("report is built in: use --mode async and --records instead".to_owned());
    }
    Ok(name)
}

pub(super) fn sync_records(text: &str) -> Result<Records, String> {
    records(text, Records::MAX_SYNC)
}

pub(super) fn async_records(text: &str) -> Result<Records, String> {
    records(text, Records::MAX_ASYNC)
}

fn records(text: &str, max: u32) -> Result<Records, String> {
    // 0 is out of range too, so both mistakes get the same message.
    Records::new(text.parse().unwrap_or(0), max).map_err(|error| format!("it {error}"))
}

pub(super) fn status_code(text: &str) -> Result<StatusCode, String> {
    let status = text.parse::<StatusCode>().ok();
    status
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| "it must be an HTTP status from 200 to 599".to_owned())
}

pub(super) fn lease(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(500)..=Duration::from_secs(30);
    duration(text)
        .ok()
        .filter(|lease| bounds.contains(lease))
        .ok_or_else(|| "it must be a duration from 500ms to 30s".to_owned())
}

pub(super) fn storm_threshold(text: &str) -> Result<Threshold, String> {
    Threshold::parse(text, Run::Storm)
}

pub(super) fn demo_threshold(text: &str) -> Result<Threshold, String> {
    Threshold::parse(text, Run::Demo)
}

pub(super) fn chaos_threshold(text: &str) -> Result<Threshold, String> {
    Threshold::parse(text, Run::Chaos)
}
