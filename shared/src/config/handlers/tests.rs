mod headers;
mod kinds;
mod tables;

use std::{io::Write as _, time::Duration};

use super::{HandlerKind, HandlerSettings, HttpHandler};
use crate::{
    config::{MANUAL, SettingError, Settings, layers::Layers},
    models::HandlerName,
};

/// Random bytes, so that they cause no warning.
const SECRET: &str = "whsec_VJZ3nQkBzqk2GmP2Ih7XyC5S0cLrE4yTnWbUoD9aFxM=";
const URL: (&str, &str) = ("HANDLERS__PDF__URL", "http://127.0.0.1:9100/");

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The settings of a file and of variables.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingError> {
    let file = file(&format!("log = 'info'\n{text}"));
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::read(&Layers::new(Some(file.path()), variables)?)
}

/// The settings of the handler `pdf`.
fn pdf(text: &str, variables: &[(&str, &str)]) -> HandlerSettings {
    let settings = read(text, variables).unwrap();
    let name: HandlerName = "pdf".parse().unwrap();
    settings.handlers.get(&name).unwrap().clone()
}

fn http(handler: HandlerSettings) -> HttpHandler {
    match handler.kind {
        HandlerKind::Http(http) => http,
        HandlerKind::Rust => panic!("it is no http handler"),
    }
}

fn error(text: &str, variables: &[(&str, &str)]) -> String {
    let error = read(text, variables).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    error.to_string()
}

#[test]
fn a_table_needs_a_url_only_and_has_the_documented_defaults() {
    for (text, variables) in [
        ("[handlers.pdf]\nurl = 'http://127.0.0.1:9100/'", &[][..]),
        ("", &[URL]),
    ] {
        let handler = pdf(text, variables);
        assert_eq!(handler.name.as_str(), "pdf");
        assert_eq!(handler.concurrency, 100);
        assert_eq!(handler.timeout, Duration::from_secs(30));
        assert_eq!(handler.retry.delays, [1, 5, 25].map(Duration::from_secs));
        assert_eq!(handler.retry.retry_after_max, Duration::from_hours(1));
        assert_eq!(
            (handler.max_payload, handler.max_result),
            (256 << 10, 1 << 20)
        );
        let http = http(handler);
        assert_eq!(http.url.as_str(), "http://127.0.0.1:9100/");
        assert!(http.headers.is_empty() && http.signer.secrets() == 0);
    }
    assert!(Settings::with([]).unwrap().handlers.is_empty());
}

#[test]
fn every_key_can_be_set_in_the_file_and_in_the_environment() {
    let text = format!(
        "[handlers.pdf]\nkind = 'http'\nurl = 'https://a.example/x?y=1'\nsecret = '{SECRET}'\n\
         concurrency = 7\ntimeout = '2m'\nretry_delays = ''\nmax_payload = '1KiB'\n\
         max_result = '16MiB'\nheaders = {{ X-Api-Key = 'k 1', accept = 'text/plain' }}"
    );
    let variables = [
        ("HANDLERS__PDF__KIND", "http"),
        ("HANDLERS__PDF__URL", "https://a.example/x?y=1"),
        ("HANDLERS__PDF__SECRET", SECRET),
        ("HANDLERS__PDF__CONCURRENCY", "7"),
        ("HANDLERS__PDF__TIMEOUT", "2m"),
        ("HANDLERS__PDF__RETRY_DELAYS", ""),
        ("HANDLERS__PDF__MAX_PAYLOAD", "1KiB"),
        ("HANDLERS__PDF__MAX_RESULT", "16MiB"),
        ("HANDLERS__PDF__HEADERS__X_API_KEY", "k 1"),
        ("HANDLERS__PDF__HEADERS__ACCEPT", "text/plain"),
    ];
    for handler in [pdf(&text, &[]), pdf("", &variables)] {
        assert_eq!(handler.concurrency, 7);
        assert_eq!(handler.timeout, Duration::from_mins(2));
        assert!(handler.retry.delays.is_empty());
        assert_eq!(
            (handler.max_payload, handler.max_result),
            (1 << 10, 16 << 20)
        );
        let http = http(handler);
        assert_eq!(http.url.as_str(), "https://a.example/x?y=1");
        assert_eq!(http.signer.secrets(), 1);
        assert_eq!(http.headers.len(), 2);
        assert_eq!(http.headers["x-api-key"], "k 1");
        assert!(
            http.headers
                .values()
                .all(hyper::header::HeaderValue::is_sensitive)
        );
    }
    let rust = pdf(
        "[handlers.pdf]\nkind = 'rust'",
        &[("HANDLERS__PDF__SECRET", "")],
    );
    assert!(matches!(rust.kind, HandlerKind::Rust));
}

#[test]
fn retries_have_a_jitter_of_their_own_and_the_longest_retry_after_of_callbacks() {
    let variables = [
        URL,
        ("CALLBACK_RETRY_JITTER", "0"),
        ("CALLBACK_RETRY_AFTER_MAX", "2h"),
        ("CALLBACK_RETRY_DELAYS", "9s"),
    ];
    let retry = pdf("", &variables).retry;
    assert!((retry.jitter - 0.2).abs() < f64::EPSILON);
    assert_eq!(retry.retry_after_max, Duration::from_hours(2));
    assert_eq!(retry.delays[0], Duration::from_secs(1));
}

#[test]
fn a_drain_lasts_as_long_as_the_longest_work_within_bounds_unless_it_is_set() {
    let drains = |variables: &[(&str, &str)]| {
        let settings = read("", variables).unwrap();
        let drains = [settings.worker.drain_timeout, settings.drain_timeout];
        drains.map(|drain| drain.as_secs())
    };
    let timeout = |time| ("HANDLERS__PDF__TIMEOUT", time);
    let other = ("HANDLERS__OTHER__URL", "http://127.0.0.1:9100/");
    assert_eq!(drains(&[]), [20, 20]);
    assert_eq!(drains(&[URL, timeout("5s")]), [20, 20]);
    // The API has no use for more.
    assert_eq!(drains(&[URL, other, timeout("2m")]), [120, 20]);
    assert_eq!(drains(&[URL, other, timeout("5s")]), [30, 20]);
    assert_eq!(drains(&[URL, timeout("24h")]), [300, 20]);
    let set = ("DRAIN_TIMEOUT", "3s");
    assert_eq!(drains(&[URL, timeout("2m"), set]), [3, 3]);
    let auto = ("DRAIN_TIMEOUT", "auto");
    assert_eq!(drains(&[URL, timeout("2m"), auto]), [120, 20]);
}

#[test]
fn a_value_out_of_bounds_is_an_error_that_names_the_variable_the_value_and_what_is_accepted() {
    let delays = "up to 100 durations, separated by commas or white space, each a number and a \
                  unit, above zero and up to 30d, such as 2s,4s,8s";
    let timeout = "a number and a unit, from 100ms to 24h, such as 250ms, 10s or 90m";
    for (key, value, accepted) in [
        ("kind", "grpc", "http or rust"),
        ("concurrency", "0", "a whole number from 1 to 500000"),
        ("concurrency", "500001", "a whole number from 1 to 500000"),
        ("timeout", "99ms", timeout),
        ("timeout", "86401s", timeout),
        ("retry_delays", "1s;2s", delays),
        (
            "max_payload",
            "1023",
            "a number and a unit, from 1KiB to 4MiB",
        ),
        (
            "max_payload",
            "4097KiB",
            "a number and a unit, from 1KiB to 4MiB",
        ),
        (
            "max_result",
            "0KiB",
            "a number and a unit, from 1KiB to 16MiB",
        ),
        (
            "max_result",
            "17MiB",
            "a number and a unit, from 1KiB to 16MiB",
        ),
    ] {
        let variable = format!("HANDLERS__PDF__{}", key.to_ascii_uppercase());
        let expected = format!("{variable}={value}: expected {accepted}");
        let text = format!("[handlers.pdf]\nurl = 'http://a.example/'\n{key} = '{value}'");
        assert_eq!(error(&text, &[]), expected);
        assert_eq!(error("", &[URL, (&variable, value)]), expected);
    }
    for (key, value) in [
        ("CONCURRENCY", "5000"),
        ("TIMEOUT", "100ms"),
        ("TIMEOUT", "24h"),
        ("MAX_PAYLOAD", "1KiB"),
        ("MAX_PAYLOAD", "4MiB"),
        ("MAX_RESULT", "16MiB"),
    ] {
        pdf("", &[URL, (&format!("HANDLERS__PDF__{key}"), value)]);
    }
}

#[test]
fn handlers_leave_half_of_a_workers_slots_to_reports_and_callbacks() {
    let with = |workers: &str, each: &str| {
        Settings::with([
            URL,
            ("HANDLERS__A__KIND", "rust"),
            ("HANDLERS__A__CONCURRENCY", each),
            ("HANDLERS__PDF__CONCURRENCY", "20"),
            ("WORKER_CONCURRENCY", workers),
        ])
    };
    assert!(with("101", "30").is_ok());
    assert_eq!(
        with("101", "31").unwrap_err().to_string(),
        "WORKER_CONCURRENCY=101: half of it, 50, is for handlers, and their concurrency is 51 in \
         total: raise it to 102, which needs a restart, or lower HANDLERS__*__CONCURRENCY"
    );
    assert!(
        with("1", "1")
            .unwrap_err()
            .to_string()
            .contains("half of it, 0, is")
    );
    // The default counts as well.
    let default = error("", &[URL, ("WORKER_CONCURRENCY", "199")]);
    assert!(
        default.contains("half of it, 99, is") && default.contains("is 100 in"),
        "{default}"
    );
}

#[test]
fn there_are_at_most_64_handlers() {
    let of = |count: usize| {
        let tables = (0..count).map(|n| format!("[handlers.h{n}]\nkind = 'rust'\nconcurrency = 1"));
        tables.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(read(&of(64), &[]).unwrap().handlers.iter().len(), 64);
    assert_eq!(
        error(&of(65), &[]),
        "HANDLERS: there are 65; expected at most 64"
    );
}

#[test]
fn no_secret_header_value_or_query_of_a_handler_is_in_an_error_or_in_debug_output() {
    let variables = [
        ("HANDLERS__PDF__URL", "http://a.example/hook?key=hunter2"),
        ("HANDLERS__PDF__SECRET", SECRET),
        ("HANDLERS__PDF__HEADERS__X_KEY", "hunter2"),
    ];
    let settings = Settings::with(variables).unwrap();
    let shown = format!("{settings:?} {settings:#?}");
    assert!(
        shown.contains("http://a.example/…") && shown.contains("x-key"),
        "{shown}"
    );
    assert!(
        !shown.contains("hunter2") && !shown.contains(&SECRET[6..]),
        "{shown}"
    );
    for value in [
        &format!("{SECRET} hunter2"),
        &format!("{SECRET},{SECRET}"),
        "hunter2",
    ] {
        let error = Settings::with([URL, ("HANDLERS__PDF__SECRET", value)]).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            text.starts_with("HANDLERS__PDF__SECRET=(hidden): "),
            "{text}"
        );
        assert!(
            !text.contains("hunter2") && !text.contains(&SECRET[6..]),
            "{text}"
        );
    }
}

#[test]
fn a_secret_of_a_handler_that_can_be_guessed_is_warned_of() {
    let weak = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let settings = Settings::with([URL, ("HANDLERS__PDF__SECRET", weak)]).unwrap();
    let [warning] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings);
    };
    assert_eq!(warning.setting, "HANDLERS__PDF__SECRET");
    assert!(
        warning
            .problem
            .starts_with("the 1st key is a published sample"),
        "{warning:?}"
    );
    let strong = Settings::with([URL, ("HANDLERS__PDF__SECRET", SECRET)]).unwrap();
    assert!(strong.warnings.is_empty(), "{:?}", strong.warnings);
}

#[test]
fn the_example_of_the_manual_is_accepted_and_shows_the_defaults() {
    let example: Vec<_> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.is_empty() && !line.starts_with(' '))
        .collect();
    let example = example.join("\n");
    let name = "thumbnails".parse().unwrap();
    let secret = file(SECRET);
    let path = secret.path().to_str().unwrap();
    let example = example.replace("/run/secrets/thumbnails", path);
    let variables = [("THUMBNAILS_TOKEN", "Bearer x")];
    let shown = read(&example, &variables)
        .unwrap()
        .handlers
        .get(&name)
        .unwrap()
        .clone();
    let text = format!("[handlers.thumbnails]\nurl = '{}'", http(shown.clone()).url);
    let mut default = read(&text, &[])
        .unwrap()
        .handlers
        .get(&name)
        .unwrap()
        .clone();
    assert_eq!(http(shown.clone()).signer.secrets(), 1);
    assert_eq!(http(shown.clone()).headers.len(), 1);
    default.kind = shown.kind.clone();
    assert_eq!(format!("{shown:?}"), format!("{default:?}"));
    // All keys are there.
    for key in super::tables::DEFAULTS
        .iter()
        .map(|(key, _)| *key)
        .chain(["headers"])
    {
        assert!(example.contains(&format!("\n{key}")), "{key}: {example}");
    }
}
