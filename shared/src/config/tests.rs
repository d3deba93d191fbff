use std::time::Duration;

use super::{DatabaseSettings, LogFilter, MANUAL, Settings, Synchronous, layers::PRODUCTION};

fn error_of(name: &str, value: &str) -> String {
    Settings::with([(name, value)]).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = Settings::with([]).unwrap();
    match &settings.store.database {
        DatabaseSettings::Sqlite(sqlite) => {
            assert!(sqlite.path.is_absolute() && sqlite.path.ends_with("data/storm.db"));
            assert_eq!(sqlite.synchronous, Synchronous::Full);
        }
        #[cfg(feature = "postgres")]
        other => panic!("{other}"),
    }
    assert_eq!(settings.store.idempotency_window, Duration::from_hours(24));
    assert_eq!(settings.store.retention, Some(Duration::from_hours(168)));
    let queue = settings.queue.unwrap();
    assert_eq!(queue.redis_url, "redis://127.0.0.1:6379");
    assert_eq!(queue.name, "high_priority");
    assert_eq!(settings.api.addr.to_string(), "127.0.0.1:8000");
    assert_eq!(settings.worker.addr.to_string(), "127.0.0.1:9000");
    assert_eq!(
        (settings.api.sync_threads, settings.api.sync_queue),
        (4, 64)
    );
    assert_eq!(settings.api.sync_timeout, Duration::from_secs(5));
    assert_eq!(settings.api.max_backlog, 1_000_000);
    assert_eq!(settings.worker.concurrency, 10_000);
    assert_eq!(settings.worker.lease, Duration::from_secs(15));
    assert_eq!(settings.worker.max_claims, 5);
    assert_eq!(settings.worker.poll_interval, Duration::from_millis(50));
    assert_eq!(settings.callback.timeout, Duration::from_secs(10));
    let callback = &settings.callback;
    assert_eq!(callback.retry.delays, [2, 4, 8].map(Duration::from_secs));
    assert!(callback.retry.jitter.abs() < f64::EPSILON);
    assert_eq!(callback.retry.retry_after_max, Duration::from_hours(1));
    assert_eq!((callback.per_origin, callback.max_parked), (256, 10_000));
    assert_eq!(callback.park_max, Duration::from_mins(5));
    assert_eq!(settings.callback.ca_file, None);
    assert_eq!(settings.callback.signer.secrets(), 0);
    assert_eq!(settings.memory_budget, 256 << 20);
    assert_eq!(settings.log, LogFilter::parse("info").unwrap());
}

#[test]
fn the_error_for_a_value_names_the_setting_the_value_and_what_is_accepted() {
    for (name, value, accepted) in [
        ("SYNC_THREADS", "0", "a whole number from 1 to 1024"),
        ("MAX_BACKLOG", "0", "a whole number from 1 to 100000000"),
        ("SYNC_THREADS", "many", "a whole number from 1 to 1024"),
        (
            "SYNC_TIMEOUT",
            "5",
            "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "SYNC_TIMEOUT",
            "400000000000years",
            "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "SYNC_TIMEOUT",
            "0s",
            "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "IDEMPOTENCY_WINDOW",
            "0s",
            "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "RETENTION",
            "0s",
            "0 (for ever), or a number and a unit up to 3650d, such as 90m or 7d",
        ),
        (
            "WORKER_LEASE",
            "499ms",
            "a number and a unit, from 500ms to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "POLL_INTERVAL",
            "999us",
            "a number and a unit, from 1ms to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "SHUTDOWN_DELAY",
            "5",
            "a number and a unit, from 0s to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "SHUTDOWN_DELAY",
            "31d",
            "a number and a unit, from 0s to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "DRAIN_TIMEOUT",
            "0s",
            "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m",
        ),
        (
            "MEMORY_BUDGET",
            "8191KiB",
            "a number and a unit, from 8MiB to 1024GiB",
        ),
        (
            "MEMORY_BUDGET",
            "268435456",
            "a number and a unit, from 8MiB to 1024GiB",
        ),
        ("MAX_CLAIMS", "1", "a whole number from 2 to 100"),
        ("DB_SYNCHRONOUS", "off", "full or normal"),
        (
            "API_ADDR",
            "localhost",
            "address:port, such as 127.0.0.1:8000",
        ),
        ("CALLBACK_PROFILE", "staging", "default or production"),
        ("CALLBACK_RETRY_JITTER", "1.1", "a number from 0 to 1"),
        ("CALLBACK_RETRY_JITTER", "NaN", "a number from 0 to 1"),
        (
            "CALLBACK_PER_ORIGIN",
            "0",
            "a whole number from 1 to 100000",
        ),
        ("QUEUE_NAME", "", "a key of 1 to 200 characters"),
    ] {
        assert_eq!(
            error_of(name, value),
            format!("{name}={value}: expected {accepted}")
        );
    }
}

#[test]
fn no_idempotency_key_outlives_its_request_and_the_error_names_what_was_set() {
    for (settings, error) in [
        (
            &[("RETENTION", "1h")][..],
            "RETENTION=1h: expected at least IDEMPOTENCY_WINDOW, which is 24h by default; raise \
             RETENTION, or lower IDEMPOTENCY_WINDOW",
        ),
        (
            &[("IDEMPOTENCY_WINDOW", "8d")],
            "IDEMPOTENCY_WINDOW=8d: expected at most RETENTION, which is 7d by default; lower \
             IDEMPOTENCY_WINDOW, or raise RETENTION",
        ),
        (
            &[("RETENTION", "1h"), ("IDEMPOTENCY_WINDOW", "61m")],
            "RETENTION=1h: expected at least IDEMPOTENCY_WINDOW, which is 61m; raise RETENTION, \
             or lower IDEMPOTENCY_WINDOW",
        ),
        (
            &[("RETENTION", "9s"), ("IDEMPOTENCY_WINDOW", "9s")],
            "RETENTION=9s: expected at least HTTP_TIMEOUT, which is 10s by default; raise \
             RETENTION, or lower HTTP_TIMEOUT",
        ),
        (
            &[("HTTP_TIMEOUT", "8d")],
            "HTTP_TIMEOUT=8d: expected at most RETENTION, which is 7d by default; lower \
             HTTP_TIMEOUT, or raise RETENTION",
        ),
    ] {
        let given = settings.iter().copied();
        assert_eq!(Settings::with(given).unwrap_err().to_string(), error);
        let line = |(name, value): &(&str, &str)| format!("{} = '{value}'\n", name.to_lowercase());
        let text: String = settings.iter().map(line).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let in_file = Settings::from_file(file.path()).unwrap_err();
        assert_eq!(in_file.to_string(), error);
    }
    let longest = Settings::with([("RETENTION", "1h"), ("IDEMPOTENCY_WINDOW", "60m")]);
    let window = longest.unwrap().store.idempotency_window;
    assert_eq!(window, Duration::from_hours(1));
    let for_ever = Settings::with([("RETENTION", "0"), ("IDEMPOTENCY_WINDOW", "30d")]);
    assert_eq!(for_ever.unwrap().store.retention, None);
}

#[test]
fn the_shutdown_delay_is_a_second_and_may_be_zero() {
    let delay = |settings: &[(&str, &str)]| {
        let settings = Settings::with(settings.iter().copied());
        settings.unwrap().shutdown_delay
    };
    assert_eq!(delay(&[]), Duration::from_secs(1));
    assert_eq!(delay(&[("SHUTDOWN_DELAY", "0s")]), Duration::ZERO);
}

#[test]
fn an_error_is_one_line_even_for_a_value_of_several_lines() {
    let error = error_of("QUEUE_NAME", "a\nb");
    assert_eq!(
        error,
        r"QUEUE_NAME=a\nb: expected UTF-8 without control characters"
    );
}

#[test]
fn an_allow_list_that_covers_the_whole_internet_is_not_accepted() {
    assert!(error_of("CALLBACK_ALLOW", "0.0.0.0/0").starts_with("CALLBACK_ALLOW=0.0.0.0/0: "));
}

#[test]
fn the_error_for_an_ssrf_setting_names_it_and_what_is_accepted() {
    for (name, value) in [
        ("CALLBACK_ALLOW", "::/0"),
        ("CALLBACK_ALLOW", "10.0.0.1/8"),
        ("CALLBACK_DENY", "10.0.0.1/8"),
        ("CALLBACK_PORTS", "443;80"),
        ("CALLBACK_NAT64", "64:ff9b::/95"),
    ] {
        let error = error_of(name, value);
        assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
        assert!(error.contains("expected "), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn the_ssrf_settings_make_one_policy() {
    let settings = Settings::with([
        ("CALLBACK_ALLOW", "10.0.0.0/8"),
        ("CALLBACK_DENY", "10.9.0.0/16, ::/0"),
        ("CALLBACK_PORTS", "443,8000-8100"),
        ("CALLBACK_NAT64", "64:ff9b::/96"),
    ]);
    let policy = settings.unwrap().callback.policy;
    let allows = |address: &str| policy.check_address(address.parse().unwrap()).is_ok();
    assert!(allows("10.1.0.1") && !allows("10.9.0.1") && !allows("64:ff9b::1.1.1.1"));
    assert!(policy.check_port(8001).is_ok() && policy.check_port(80).is_err());
}

#[test]
fn a_password_in_a_refused_url_is_not_printed() {
    let error = error_of("REDIS_URL", "http://:hunter2@example");
    assert!(
        error.starts_with("REDIS_URL=(hidden): expected redis://"),
        "{error}"
    );
    for url in [
        "redis://:hunter2@example\nhunter2",
        "redis://user:hunter2#1@example",
        "redis://example/0?password=hunter2",
        "redis://example:hunter2",
        "redis://hunter2@example",
        "rediss://:hunter2@example",
        "redis://:%hunter2@example",
        "redis://:hunter2",
        "redis://example/hunter2",
    ] {
        let error = error_of("REDIS_URL", url);
        assert!(error.starts_with("REDIS_URL=(hidden): "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for url in [
        "postgres://u:hunter2@host/a/b",
        "Postgres://u:hunter2@host/d",
        "postgressql://u:hunter2@host/d",
        "mysql://u:hunter2@host/d",
        "sqlite://u:hunter2@host/d",
    ] {
        let error = error_of("DB_URL", url);
        assert!(error.starts_with("DB_URL=(hidden): "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_signing_secret_is_neither_in_an_error_nor_in_debug_output() {
    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (value, problem) in [
        (
            format!("whsec_{SECRET}, {SECRET}"),
            "the 2nd key must begin",
        ),
        (format!("whsec_{SECRET}="), "the 1st key must be base64"),
        (format!("whsec_{SECRET}\u{0}"), "the 1st key must be base64"),
        (format!("whsk_{SECRET}"), "the 1st key must be the base64"),
        (format!("whsec_{SECRET} ").repeat(11), "expected at most 10"),
        (" , ".to_owned(), "it contains only separators"),
    ] {
        let error = Settings::with([("CALLBACK_SIGNING_SECRETS", &*value)]).unwrap_err();
        let text = error.to_string();
        let expected = format!("CALLBACK_SIGNING_SECRETS=(hidden): {problem}");
        assert!(text.starts_with(&expected), "{text}");
        assert!(!format!("{text} {error:?}").contains(SECRET), "{error:?}");
    }
    let two = format!("whsec_{SECRET},\n\twhsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    let settings = Settings::with([("CALLBACK_SIGNING_SECRETS", &*two)]).unwrap();
    assert_eq!(settings.callback.signer.secrets(), 2);
    assert!(!format!("{settings:?}").contains(SECRET));
}

#[test]
fn without_redis_there_is_no_queue_but_its_settings_are_checked() {
    let settings = Settings::with([("REDIS_URL", "none")]).unwrap();
    assert!(settings.queue.is_none());
    assert_eq!(settings.queue_name(), "none");
    let error = Settings::with([("REDIS_URL", "none"), ("QUEUE_LENGTH", "0")]).unwrap_err();
    assert!(error.to_string().starts_with("QUEUE_LENGTH=0: "), "{error}");
}

#[test]
fn the_error_for_the_log_and_the_database_names_the_setting_and_what_is_accepted() {
    for (name, value, problem) in [
        (
            "LOG",
            "warning",
            "`warning` is not a level; expected trace, ",
        ),
        ("LOG", "", "a level is missing; expected trace, "),
        ("DB_URL", "sqlite:~/storm.db", "expected sqlite:PATH, "),
    ] {
        let error = error_of(name, value);
        let expected = format!("{name}={value}: {problem}");
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn a_line_break_separates_the_entries_of_every_list() {
    for (name, value) in [
        ("CALLBACK_ALLOW", "10.0.0.0/8\n11.0.0.0/8"),
        ("CALLBACK_DENY", "10.0.0.0/8\t11.0.0.0/8"),
        ("CALLBACK_PORTS", "443\r\n8443"),
        ("API_HOSTS", "a\nb"),
    ] {
        let settings = Settings::with([(name, value)]);
        assert!(settings.is_ok(), "{name}: {}", settings.unwrap_err());
    }
    let error = error_of("CALLBACK_PORTS", "443\nx\u{7f}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_list_of_delays_is_separated_by_commas_or_white_space_and_never_a_sum() {
    let delays = |value| {
        let settings = Settings::with([("CALLBACK_RETRY_DELAYS", value)]);
        settings.map(|settings| settings.callback.retry.delays)
    };
    for value in ["1s 2s 1s", "1s,2s,1s", "1s, 2s 1s,", "1s\n2s\t1s\r\n"] {
        assert_eq!(delays(value).unwrap(), [1, 2, 1].map(Duration::from_secs));
    }
    for value in ["1s2s1s", "1h30m", "1s;2s", "1 s", ",", "1.5s"] {
        assert!(delays(value).is_err(), "{value}");
    }
    for value in ["1s 2s", "1h 30m", "1h30m", "1s,2s"] {
        assert!(error_of("SYNC_TIMEOUT", value).contains("a number and a unit"));
    }
}

#[test]
fn an_empty_list_of_delays_means_no_retries() {
    let settings = Settings::with([("CALLBACK_RETRY_DELAYS", "")]).unwrap();
    assert!(settings.callback.retry.delays.is_empty());
}

#[test]
fn the_production_profile_retries_for_days_and_explicit_settings_override_it() {
    let profile = ("CALLBACK_PROFILE", "production");
    let retry = Settings::with([profile]).unwrap().callback.retry;
    let days = retry.delays.iter().sum::<Duration>().as_secs() / 86_400;
    assert!((3..=4).contains(&days), "{:?}", retry.delays);
    assert!((retry.jitter - 0.2).abs() < f64::EPSILON);
    let own = ("CALLBACK_RETRY_DELAYS", "1s");
    let retry = Settings::with([profile, own]).unwrap().callback.retry;
    assert_eq!(retry.delays, [Duration::from_secs(1)]);
    assert!((retry.jitter - 0.2).abs() < f64::EPSILON);
}

#[test]
fn the_manual_fits_into_a_terminal_of_80_columns() {
    for line in MANUAL.lines().chain(PRODUCTION.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
