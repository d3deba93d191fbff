//! The options of `demo`, `storm`, `report` and `receive`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::ArgPredicate};
use hyper::{StatusCode, header::HeaderValue};
use storm_shared::models::{HandlerName, Mode, Records};

use super::{
    payload::Payload,
    token::GivenToken,
    values::{self, MAX_REQUESTS, duration, status_code},
};
use crate::{
    http_url::HttpUrl,
    listen::{ListenAddr, Listener},
    thresholds::{Missing, Threshold},
};

/// The API under load.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The API: an http:// URL on any host that you may put under load
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub api: HttpUrl,
    /// The token for an API that requires one; prefer the environment variable, because every user
    /// of the host can see command lines
    #[arg(
        long,
        value_name = "TOKEN",
        env = "STORM_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<GivenToken>,
    /// The deadline of an answer, counted from the moment its request was due
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

impl Target {
    /// The `authorization` header of each request, if there is a token.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let token = self.token.as_ref()?;
        token.authorization().ok()? // `check` has rejected invalid tokens
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let token = self.token.as_ref();
        token.map_or(Ok(()), |token| {
            token.authorization().map(drop).map_err(ToOwned::to_owned)
        })
    }
}

/// Where callbacks are received, and how long to wait for them.
#[derive(Args, Clone, Debug)]
pub struct Callbacks {
    /// The address to receive callbacks on; localhost means 127.0.0.1, and also `::1` if the host
    /// has it; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "localhost:8001")]
    pub listen: ListenAddr,
    /// The callback URL of the jobs; it must lead to --listen
    /// [default: `http://localhost:8001/webhook`, or the same path at another --listen address]
    #[arg(long, value_name = "URL")]
    pub callback_url: Option<HttpUrl>,
    /// How long after a report's ideal duration the last callback may arrive; the default covers
    /// the retries (after 2, 4 and 8 s) and their timeouts (10 s each)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub patience: Duration,
}

impl Callbacks {
    /// The callback URL, and its path.
    pub fn url(&self, listener: &Listener) -> (String, String) {
        match &self.callback_url {
            Some(url) => (url.as_str().to_owned(), url.path().to_owned()),
            None => (listener.url(WEBHOOK), WEBHOOK.to_owned()),
        }
    }
}

const WEBHOOK: &str = "/webhook";

/// The options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// The API under load.
    #[command(flatten)]
    pub target: Target,
    /// Where callbacks are received.
    #[command(flatten)]
    pub callbacks: Callbacks,
    /// Concurrent requests to each of /sync and /async: 1 to 1000
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub requests: u32,
    /// The number of records in each report, 10 ms each: 1 to 49
    #[arg(long, value_name = "N", default_value = "49", value_parser = values::sync_records)]
    pub records: Records,
    /// Write the result to this file as JSON; an earlier result is replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write both sides over time to this CSV file, as `storm` does
    #[arg(long, value_name = "FILE")]
    pub series: Option<PathBuf>,
    /// Fail the run under this condition, such as `async.p99>50ms` or `lost>0`; repeatable. A wrong
    /// name lists all figures: those of answers are of one side, `sync.` or `async.`
    #[arg(long, value_name = "CONDITION", value_parser = values::demo_threshold)]
    pub fail_if: Vec<Threshold>,
    /// Write a report with plots to this file, as HTML that loads nothing; an earlier report is
    /// replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// The options of `storm`.
#[derive(Args, Clone, Debug)]
pub struct StormOptions {
    /// The API under load.
    #[command(flatten)]
    pub target: Target,
    /// Where callbacks are received.
    #[command(flatten)]
    pub callbacks: Callbacks,
    /// The endpoint: `/sync` answers with the report, `/async` delivers it by a callback; jobs of a
    /// handler are always async
    #[arg(
        long,
        required = false, // the derive would set it, and it excludes the next
        required_unless_present = "handler",
        default_value_if("handler", ArgPredicate::IsPresent, "async"),
        value_parser = values::mode()
    )]
    pub mode: Mode,
    /// Requests per second: 1 to 50000; latency is measured from the moment a request was due
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub rate: u32,
    /// How long to send requests, such as 10s or 500ms: at most 1h, and 2000000 requests
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Duration,
    /// The number of records in each report, 10 ms each: 1 to 49 for sync, 1 to 100000 for async
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "handler",
        conflicts_with = "handler",
        value_parser = values::async_records
    )]
    pub records: Option<Records>,
    /// Submit jobs of this handler instead of reports, to `/async/NAME`
    #[arg(long, value_name = "NAME", requires = "payload", value_parser = values::handler)]
    pub handler: Option<HandlerName>,
    /// The payload of each job of the handler: a file with one JSON value, of 4 MiB at most
    #[arg(long, value_name = "FILE", requires = "handler", value_parser = Payload::read)]
    pub payload: Option<Payload>,
    /// The limit of requests in flight: 1 to 20000; requests over the limit are counted as not sent
    #[arg(long, value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub in_flight: u32,
    /// Submit jobs without a callback URL and poll them; this is also the fallback if the callback
    /// of a test job does not arrive
    #[arg(long, visible_alias = "no-receiver")]
    pub poll: bool,
    /// Write the result to this file as JSON; an earlier result is replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with plots to this file, as HTML that loads nothing; an earlier report is
    /// replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Append one line to this CSV file; a new file also gets a header, and a file with other
    /// columns is refused
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the run over time to this CSV file, a line for each interval; an earlier series is
    /// replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub series: Option<PathBuf>,
    /// Fail the run under this condition, such as `p99>50ms`, `callback.p99>2s`, `refused>0.5%` or
    /// `lost>0`; repeatable. A wrong name lists all figures
    #[arg(long, value_name = "CONDITION", value_parser = values::storm_threshold)]
    pub fail_if: Vec<Threshold>,
}

impl StormOptions {
    /// The number of requests in the run: at least one.
    pub fn requests(&self) -> u64 {
        // A short duration at a low rate rounds down to 0, so `max(1)`.
        let millis = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        (millis.saturating_mul(self.rate.into()) / 1000).max(1)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.requests() > MAX_REQUESTS {
            return Err(format!(
                "--rate {} over --duration {} makes {} requests; at most {MAX_REQUESTS} are accepted",
                self.rate,
                humantime::format_duration(self.duration),
                self.requests()
            ));
        }
        if self.mode == Mode::Sync && self.handler.is_some() {
            return Err("--mode sync: jobs of a handler are async; leave out --mode".to_owned());
        }
        if let Some(records) = self.records
            && self.mode == Mode::Sync
            && records.count() > Records::MAX_SYNC
        {
            return Err(format!(
                "--records {} is too many for /sync; it must be a whole number from 1 to {}",
                records.count(),
                Records::MAX_SYNC
            ));
        }
        for threshold in &self.fail_if {
            if self.mode == Mode::Sync {
                threshold.check(Missing::Jobs)?;
            }
            if self.handler.is_some() {
                threshold.check(Missing::Lateness)?;
            }
        }
        Ok(())
    }
}

/// The options of `report`.
#[derive(Args, Clone, Debug)]
pub struct ReportOptions {
    /// The file to write: HTML that loads nothing; an earlier report is replaced, another file is
    /// not
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    /// Results that --json has written: one, or those of several storms, such as at several rates
    #[arg(value_name = "RESULT", required = true)]
    pub results: Vec<PathBuf>,
}

/// The options of `receive`.
#[derive(Args, Clone, Debug)]
pub struct ReceiveOptions {
    /// The address to receive callbacks on, at any path; GET /stats returns the counts
    #[arg(long, value_name = "ADDR", default_value = "localhost:8001")]
    pub listen: ListenAddr,
    /// Answer the first N callbacks with 500
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub fail_first: u64,
    /// Answer the others with this status: 200 to 599
    #[arg(long, value_name = "CODE", default_value = "200", value_parser = status_code)]
    pub status: StatusCode,
}
