//! The `OTEL_` variables: whether, where to and how traces are exported.
//!
//! The SDK and the exporter read most of them. What they would ignore with a message that nobody
//! sees is checked here, so that a start refuses it.

use std::{
    collections::HashMap, env, fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration,
};

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use thiserror::Error;
use url::Url;

use super::{
    client::{Authorities, Client, TlsError},
    export::Traces,
    pairs::{headers, pairs},
};

/// The first that is set counts. The second one is the base of the path `v1/traces`.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const TIMEOUTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
];
const COMPRESSIONS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
const CERTIFICATES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const BATCH: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";

/// The specification's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The specification's default.
const DEFAULT_QUEUE: usize = 2048;
/// The bound of what a collector can make this process hold: at some 1 KiB for a span. The SDK
/// allocates the queue at its start.
const MAX_QUEUE: usize = 1 << 16;
/// Without a pause, the thread of the SDK would take a whole core.
const DELAYS: RangeInclusive<u64> = 1..=3_600_000;

/// Why a variable is not accepted.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A value.
    #[error("{name}={value}: expected {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// An endpoint with a user name or a password, which is not repeated here.
    #[error(
        "{0}: a URL without user name and password; put a token into OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Credentials(&'static str),
    /// Headers, which are not repeated here: one is often a token.
    #[error("{0}: expected name=value, separated by commas; in a value, a comma is %2C")]
    Headers(&'static str),
    /// The exporter refuses the variables.
    #[error("OTEL_EXPORTER_OTLP_*: {0}")]
    Exporter(String),
    /// There is no TLS.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// What to export, and where to.
#[derive(Debug)]
pub struct Plan {
    target: Option<Target>,
}

#[derive(Debug)]
pub(super) struct Target {
    /// Scheme, host and port: what may be logged.
    pub(super) origin: String,
    pub(super) exporter: SpanExporter,
    pub(super) client: Client,
    pub(super) queue: usize,
}

/// The variables, as far as they are read here.
#[derive(Debug, PartialEq)]
struct Variables {
    /// Where spans are sent.
    endpoint: Url,
    headers: HashMap<String, String>,
    timeout: Duration,
    authorities: Option<Authorities>,
    queue: usize,
}

impl Plan {
    /// Reads the environment. Without an endpoint, nothing is exported.
    ///
    /// # Errors
    /// A variable is not accepted.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn from_env() -> Result<Self, PlanError> {
        let target = match Variables::read(|name| env::var(name).ok())? {
            None => None,
            Some(variables) => Some(variables.target()?),
        };
        Ok(Self { target })
    }

    /// The threads that the export takes: the SDK's, which panics without it, and a look-up's.
    pub fn threads(&self) -> usize {
        if self.target.is_some() { 2 } else { 0 }
    }

    /// The most file descriptors that the export takes: a connection, and two while it is dialled.
    pub fn descriptors(&self) -> usize {
        if self.target.is_some() { 2 } else { 0 }
    }

    /// Starts the export. Unless a variable names the service otherwise, it is `service`.
    pub fn start(self, service: &str) -> Traces {
        match self.target {
            Some(target) => Traces::start(target, service),
            None => Traces::none(),
        }
    }
}

impl Variables {
    fn read(get: impl Fn(&'static str) -> Option<String>) -> Result<Option<Self>, PlanError> {
        // Empty is unset, as the specification has it.
        let get = |name| get(name).filter(|value| !value.trim().is_empty());
        let first = |names: [&'static str; 2]| {
            let mut set = names.into_iter();
            set.find_map(|name| get(name).map(|value| (name, value)))
        };
        let is_disabled =
            get("OTEL_SDK_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
        let exporter = get(EXPORTER);
        if is_disabled || exporter.as_ref().is_some_and(|it| it == "none") {
            return Ok(None);
        }
        let Some((name, endpoint)) = first(ENDPOINTS) else {
            return Ok(None);
        };
        let endpoint = endpoint_of(name, &endpoint)?;
        if let Some(value) = exporter
            && value != "otlp"
        {
            return Err(unexpected(EXPORTER, value, "otlp or none"));
        }
        if let Some((name, value)) = first(PROTOCOLS)
            && value != "http/protobuf"
        {
            return Err(unexpected(name, value, "http/protobuf"));
        }
        if let Some((name, value)) = first(COMPRESSIONS)
            && value != "none"
        {
            return Err(unexpected(name, value, "none"));
        }
        let headers = match first(HEADERS) {
            None => HashMap::new(),
            Some((name, value)) => headers(&value).ok_or(PlanError::Headers(name))?,
        };
        if let Some(value) = get(ATTRIBUTES)
            && pairs(&value).is_none()
        {
            let expected = "name=value, separated by commas";
            return Err(unexpected(ATTRIBUTES, value, expected));
        }
        check_sampler(get)?;
        let timeout = match first(TIMEOUTS) {
            None => DEFAULT_TIMEOUT,
            Some((name, value)) => {
                Duration::from_millis(number(name, value, 1..=600_000, "milliseconds")?)
            }
        };
        let queue = match get(QUEUE) {
            None => DEFAULT_QUEUE,
            Some(value) => number(QUEUE, value, 1..=MAX_QUEUE, "spans")?,
        };
        // The SDK reads these two.
        if let Some(value) = get(BATCH) {
            number(BATCH, value, 1..=MAX_QUEUE, "spans")?;
        }
        if let Some(value) = get(DELAY) {
            number(DELAY, value, DELAYS, "milliseconds")?;
        }
        Ok(Some(Self {
            endpoint,
            headers,
            timeout,
            authorities: first(CERTIFICATES).map(|(name, file)| (name, file.into())),
            queue,
        }))
    }

    fn target(self) -> Result<Target, PlanError> {
        let client = Client::new(self.timeout, self.authorities.as_ref())?;
        // Given to the exporter, so that a variable that is empty does not hide the next one.
        let builder = SpanExporter::builder()
            .with_http()
            .with_endpoint(self.endpoint.as_str())
            .with_headers(self.headers);
        let exporter = builder.with_http_client(client.clone()).build();
        Ok(Target {
            origin: self.endpoint.origin().ascii_serialization(),
            exporter: exporter.map_err(|error| PlanError::Exporter(error.to_string()))?,
            client,
            queue: self.queue,
        })
    }
}

/// Where `value`, of the variable `name`, wants spans to be sent.
fn endpoint_of(name: &'static str, value: &str) -> Result<Url, PlanError> {
    let is_whole = name == ENDPOINTS[0];
    let url = Url::parse(value).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let has_credentials = match &url {
        Some(url) => !url.username().is_empty() || url.password().is_some(),
        None => value.contains('@'),
    };
    if has_credentials {
        return Err(PlanError::Credentials(name));
    }
    // A query can hold a key.
    let shown = || match value.split_once(['?', '#']) {
        None => value.to_owned(),
        Some((before, _)) => format!("{before}(hidden)"),
    };
    let Some(mut url) = url else {
        let expected = "an http or https URL, such as http://localhost:4318";
        return Err(unexpected(name, shown(), expected));
    };
    if url.fragment().is_some() || !is_whole && url.query().is_some() {
        let expected = "a URL without query and fragment; a query may be in \
                        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        return Err(unexpected(name, shown(), expected));
    }
    if !is_whole {
        let base = url.path().strip_suffix('/').unwrap_or(url.path());
        url.set_path(&format!("{base}/v1/traces"));
    }
    Ok(url)
}

fn check_sampler(get: impl Fn(&'static str) -> Option<String>) -> Result<(), PlanError> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(sampler) = get(SAMPLER) else {
        return Ok(());
    };
    if !SAMPLERS.contains(&sampler.as_str()) {
        let expected = format!("one of {}", SAMPLERS.join(", "));
        return Err(unexpected(SAMPLER, sampler, expected));
    }
    let is_ratio = |text: &String| text.parse().is_ok_and(|it: f64| (0.0..=1.0).contains(&it));
    match get(RATIO) {
        Some(ratio) if sampler.ends_with("traceidratio") && !is_ratio(&ratio) => {
            Err(unexpected(RATIO, ratio, "a ratio from 0.0 to 1.0"))
        }
        _ => Ok(()),
    }
}

fn number<T: FromStr + PartialOrd + Display>(
    name: &'static str,
    value: String,
    range: RangeInclusive<T>,
    unit: &str,
) -> Result<T, PlanError> {
    let number = value.parse().ok().filter(|it| range.contains(it));
    let (least, most) = range.into_inner();
    number.ok_or_else(|| unexpected(name, value, format!("{least} to {most} {unit}")))
}

fn unexpected(name: &'static str, value: String, expected: impl Into<String>) -> PlanError {
    PlanError::Value {
        name,
        value,
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Variables;

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    fn read(variables: &[(&str, &str)]) -> Result<Option<Variables>, String> {
        let value = |name| variables.iter().find(|(it, _)| *it == name);
        let read = Variables::read(|name| value(name).map(|(_, value)| (*value).to_owned()));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn without_an_endpoint_or_with_the_sdk_disabled_nothing_is_exported() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(ENDPOINT.0, "")]), Ok(None));
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x")]), Ok(None));
        for off in [
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert_eq!(read(&[ENDPOINT, off]), Ok(None));
        }
        assert!(
            read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")])
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn the_endpoint_of_traces_goes_before_the_common_one_and_defaults_are_the_specifications() {
        let own = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://traces.example/a/b?c=d",
        );
        let variables = read(&[ENDPOINT, own]).unwrap().unwrap();
        assert_eq!(variables.endpoint.as_str(), own.1);
        assert_eq!(
            (variables.timeout, variables.queue),
            (Duration::from_secs(10), 2048)
        );
        let timeout = ("OTEL_EXPORTER_OTLP_TIMEOUT", "250");
        let variables = read(&[ENDPOINT, timeout]).unwrap().unwrap();
        assert_eq!(variables.timeout, Duration::from_millis(250));
        for base in ["http://collector:4318/a", "http://collector:4318/a/"] {
            let variables = read(&[(ENDPOINT.0, base), (own.0, "")]).unwrap().unwrap();
            let endpoint = variables.endpoint.as_str();
            assert_eq!(endpoint, "http://collector:4318/a/v1/traces");
        }
    }

    #[test]
    fn headers_are_pairs_and_an_empty_variable_hides_no_other() {
        let (common, own) = (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        );
        let token = (common, "x-token = a%20b=, x=y,");
        for variables in [&[ENDPOINT, token][..], &[ENDPOINT, token, (own, "")]] {
            let headers = read(variables).unwrap().unwrap().headers;
            assert_eq!(headers.len(), 2);
            assert_eq!(
                (headers["x-token"].as_str(), headers["x"].as_str()),
                ("a%20b=", "y")
            );
        }
        for wrong in [
            "hunter2",
            "a=b,hunter2",
            "=hunter2",
            "a b=hunter2",
            "a=\u{1}",
        ] {
            let error = read(&[ENDPOINT, token, (own, wrong)]).unwrap_err();
            assert!(error.starts_with(&format!("{own}: ")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_accepted_is_named_in_one_line_with_what_is() {
        for (name, value, expected) in [
            (ENDPOINT.0, "collector:4318", "http://localhost:4318"),
            (ENDPOINT.0, "localhost", "http://localhost:4318"),
            (ENDPOINT.0, "http://", "http://localhost:4318"),
            (ENDPOINT.0, "grpc://collector:4317", "http://localhost:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "expected none"),
            ("OTEL_TRACES_EXPORTER", "console", "otlp or none"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c", "name=value"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "milliseconds"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "spans"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "65537", "1 to 65536 spans"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", "spans"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many", "spans"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0", "1 to 3600000 milliseconds"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5s", "milliseconds"),
            (
                "OTEL_TRACES_SAMPLER",
                "jaeger_remote",
                "parentbased_traceidratio",
            ),
        ] {
            let variables = [(name, value), ENDPOINT];
            let error = read(&variables).unwrap_err();
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        for value in ["", "0", "0.5", "1"] {
            let read = read(&[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", value)]);
            assert!(read.unwrap().is_some());
        }
        for value in ["half", "1.5", "-0.1", "NaN"] {
            let read = read(&[ENDPOINT, ratio, ("OTEL_TRACES_SAMPLER_ARG", value)]);
            assert!(read.unwrap_err().contains("0.0 to 1.0"));
        }
    }

    #[test]
    fn an_endpoints_password_and_query_are_not_repeated() {
        let own = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        for (name, value) in [
            (ENDPOINT.0, "http://user:hunter2@collector"),
            (ENDPOINT.0, "user:hunter2@collector:4318"),
            (ENDPOINT.0, "http://collector?key=hunter2"),
            (ENDPOINT.0, "grpc://collector?key=hunter2"),
            (ENDPOINT.0, "http://collector#hunter2"),
            (own, "https://collector/v1/traces?key=a#hunter2"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(
                !error.contains("hunter2") && error.starts_with(name),
                "{error}"
            );
        }
    }
}
