//! The settings of handlers: a table for each, `[handlers.NAME]`.

mod headers;
mod sources;
pub(super) mod tables;

use std::{collections::BTreeMap, fmt, time::Duration};

use hyper::HeaderMap;
use url::{Position, Url};

use self::tables::{full_key, setting_name};
use super::{
    callback::RetrySettings,
    error::SettingError,
    layers::{HIDDEN, Layers, invalid, is_plain},
    warning::Warning,
};
use crate::{
    models::{CallbackUrl, CallbackUrlError, HandlerName},
    services::signature::Signer,
};

/// The most handlers. Each has connections, a stream and metrics of its own.
pub const MAX_HANDLERS: usize = 64;

/// By how much of itself a wait before a retry is lengthened at most. Nothing promises clients the
/// moments of these retries, and jobs that fail together must not come back together.
pub const RETRY_JITTER: f64 = 0.2;

/// The handlers, by name. The built-in `report` is not among them: it has no settings.
#[derive(Clone, Debug, Default)]
pub struct Handlers(BTreeMap<HandlerName, HandlerSettings>);

/// The settings of one handler.
#[derive(Clone, Debug)]
pub struct HandlerSettings {
    /// The name of its table.
    pub name: HandlerName,
    /// What does the work: `kind`.
    pub kind: HandlerKind,
    /// Jobs of it that one worker runs at a time: `concurrency`.
    pub concurrency: u32,
    /// Time for one attempt: `timeout`.
    pub timeout: Duration,
    /// The retry schedule: `retry_delays`, with a jitter of a fifth. The longest `Retry-After` is
    /// that of callbacks.
    pub retry: RetrySettings,
    /// The largest payload that a client may send, in bytes: `max_payload`.
    pub max_payload: usize,
    /// The largest result, in bytes: `max_result`.
    pub max_result: usize,
}

/// What does the work of a handler.
#[expect(clippy::large_enum_variant, reason = "there are at most 64")]
#[derive(Clone, Debug)]
pub enum HandlerKind {
    /// The operator's endpoint.
    Http(HttpHandler),
    /// Code that is compiled into the worker, registered under the handler's name.
    Rust,
}

/// The operator's endpoint.
#[derive(Clone)]
pub struct HttpHandler {
    /// An http or https URL without user name, password and fragment: `url`.
    pub url: Url,
    /// The headers that each attempt gets besides those of the service: `headers`. The values are
    /// marked as sensitive.
    pub headers: HeaderMap,
    /// Signs the attempts: `secret`. Without one, it is [`Signer::none`].
    pub signer: Signer,
}

// A query may contain a secret.
impl fmt::Debug for HttpHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpHandler")
            .field(
                "url",
                &format_args!("{}/…", &self.url[..Position::BeforePath]),
            )
            .field("headers", &self.headers)
            .field("signer", &self.signer)
            .finish()
    }
}

impl Handlers {
    /// The handler of this name.
    pub fn get(&self, name: &HandlerName) -> Option<&HandlerSettings> {
        self.0.get(name)
    }

    /// All handlers, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &HandlerSettings> {
        self.0.values()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The longest time that one of them has for an attempt; zero if there are none.
    pub(super) fn longest_timeout(&self) -> Duration {
        let timeouts = self.iter().map(|handler| handler.timeout);
        timeouts.max().unwrap_or_default()
    }

    /// Reads all tables. `retry` is the schedule of callbacks.
    pub(super) fn read(layers: &Layers, retry: &RetrySettings) -> Result<Self, SettingError> {
        let names = layers.handlers().names();
        if names.len() > MAX_HANDLERS {
            let problem = format!("there are {}; expected at most {MAX_HANDLERS}", names.len());
            return Err(SettingError::no_value("HANDLERS", problem));
        }
        let settings = names.map(|name| {
            let settings = HandlerSettings::read(layers, name, retry)?;
            Ok((name.clone(), settings))
        });
        settings.collect::<Result<_, _>>().map(Self)
    }

    /// Checks that the handlers leave half of a worker's slots to reports and callbacks.
    ///
    /// # Errors
    /// They don't. The error names `WORKER_CONCURRENCY` and what it has to be.
    pub(super) fn check_concurrency(&self, worker_concurrency: u32) -> Result<(), SettingError> {
        let half = u64::from(worker_concurrency / 2);
        let sum: u64 = self.iter().map(|one| u64::from(one.concurrency)).sum();
        if sum <= half {
            return Ok(());
        }
        Err(SettingError::Value {
            name: "WORKER_CONCURRENCY".to_owned(),
            value: worker_concurrency.to_string(),
            problem: format!(
                "half of it, {half}, is for handlers, and their concurrency is {sum} in total: \
                 raise it to {}, which needs a restart, or lower HANDLERS__*__CONCURRENCY",
                2 * sum
            ),
        })
    }

    /// Signing secrets that can be guessed.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let remedy = "anyone who guesses it can forge requests to the handler; replace it by 32 \
                      random bytes, as docs/RECEIVERS.md shows";
        let mut warnings = Vec::new();
        for HandlerSettings { name, kind, .. } in self.iter() {
            let HandlerKind::Http(http) = kind else {
                continue;
            };
            let setting = setting_name(&full_key(name, "secret"));
            let weaknesses = http.signer.weaknesses().iter();
            warnings
                .extend(weaknesses.map(|weak| Warning::new(&setting, format!("{weak}: {remedy}"))));
        }
        warnings
    }
}

impl HandlerSettings {
    /// A longer attempt is a mistake: it would hold its slot for days.
    const TIMEOUTS: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_hours(24);

    fn read(
        layers: &Layers,
        name: &HandlerName,
        retry: &RetrySettings,
    ) -> Result<Self, SettingError> {
        if *name == HandlerName::REPORT {
            let problem = "the handler `report` is built in and has no settings; expected another \
                           name";
            return Err(SettingError::no_value("HANDLERS__REPORT", problem));
        }
        let key = |key| full_key(name, key);
        let is_http = layers.parse(&key("kind"), "http or rust", |word| match word {
            "http" => Some(true),
            "rust" => Some(false),
            _ => None,
        })?;
        Ok(Self {
            name: name.clone(),
            kind: if is_http {
                HandlerKind::Http(HttpHandler::read(layers, name)?)
            } else {
                refuse_http_keys(layers, name)?;
                HandlerKind::Rust
            },
            // At most half of the largest WORKER_CONCURRENCY.
            concurrency: layers.number(&key("concurrency"), 1..=500_000)?,
            timeout: layers.duration_within(&key("timeout"), Self::TIMEOUTS, "100ms to 24h")?,
            retry: RetrySettings {
                delays: layers.durations(&key("retry_delays"))?,
                jitter: RETRY_JITTER,
                ..retry.clone()
            },
            max_payload: layers.size(&key("max_payload"), 1 << 10..=4 << 20)?,
            max_result: layers.size(&key("max_result"), 1 << 10..=16 << 20)?,
        })
    }
}

impl HttpHandler {
    fn read(layers: &Layers, name: &HandlerName) -> Result<Self, SettingError> {
        Ok(Self {
            url: read_url(layers, name)?,
            headers: headers::read(layers, name)?,
            signer: layers.try_parse_secret(&full_key(name, "secret"), Signer::parse)?,
        })
    }
}

fn read_url(layers: &Layers, name: &HandlerName) -> Result<Url, SettingError> {
    let key = full_key(name, "url");
    let text = layers.raw(&key)?;
    if text.is_empty() {
        let problem = "it is missing; expected the URL of the handler's endpoint, such as \
                       http://127.0.0.1:9100/, or kind = \"rust\"";
        return Err(SettingError::no_value(setting_name(&key), problem));
    }
    let problem = match CallbackUrl::parse(&text) {
        Ok(url) if url.url().fragment().is_none() => return Ok(url.url().clone()),
        Ok(_) => "must not have a fragment (`#…`), since it is never sent".to_owned(),
        Err(error @ CallbackUrlError::UserInfo) => {
            let header = setting_name(&full_key(name, "headers.authorization"));
            format!("{error}; set {header} instead")
        }
        Err(error) => error.to_string(),
    };
    // A password, a query or a fragment may be a secret.
    let is_shown = is_plain(&text) && !text.contains(['@', '?', '#']);
    let shown = if is_shown { text } else { HIDDEN.to_owned() };
    Err(invalid(&key, shown, problem))
}

/// A handler in Rust has none of the keys that belong to an endpoint.
fn refuse_http_keys(layers: &Layers, name: &HandlerName) -> Result<(), SettingError> {
    let mut keys = vec!["url".to_owned(), "secret".to_owned()];
    let headers = layers.handlers().headers(name);
    keys.extend(headers.map(|header| format!("headers.{header}")));
    for key in keys {
        let key = full_key(name, &key);
        if !layers.raw(&key)?.is_empty() {
            let problem = "a handler of the kind rust has no url, headers and secret; remove it, \
                           or set the kind to http";
            return Err(SettingError::no_value(setting_name(&key), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
