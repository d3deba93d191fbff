use std::io::Write as _;

use super::Layers;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let file = file("sync_threads = 2\nsync_queue = 3");
    let layers = Layers::new(Some(file.path()), [variable("SYNC_QUEUE", "5")]).unwrap();
    assert_eq!(layers.number("sync_threads", 1..=9).unwrap(), 2);
    assert_eq!(layers.number("sync_queue", 1..=9).unwrap(), 5);
    assert_eq!(layers.text("sync_timeout").unwrap(), "5s");
}

#[test]
fn an_unknown_setting_in_the_file_is_an_error_that_names_it() {
    let file = file("sync_treads = 2");
    let error = Layers::new(Some(file.path()), [])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("unknown setting `sync_treads`") && error.contains("sync_threads"));
}

#[test]
fn an_array_or_a_table_in_the_file_is_an_error_that_names_file_and_setting_but_no_value() {
    for (text, name) in [
        (
            "callback_signing_secrets = ['whsec_c2VjcmV0']",
            "callback_signing_secrets",
        ),
        ("sync_threads = 2\n[log]\nlevel = 'c2VjcmV0'", "log"),
    ] {
        let file = file(text);
        let error = Layers::new(Some(file.path()), []).err().unwrap();
        let path = file.path().display();
        let expected = format!("{path}: `{name}` is an array or a table; expected one text");
        let shown = error.to_string();
        assert!(shown.starts_with(&expected), "{shown}");
        assert!(!format!("{shown} {error:?}").contains("c2VjcmV0"));
    }
    let plain = file("sync_threads = 2\napi_open = true\nlog = 'info'");
    Layers::new(Some(plain.path()), []).unwrap();
}

#[test]
fn an_error_in_the_file_quotes_none_of_its_lines() {
    for (text, place) in [
        (
            "callback_signing_secrets = whsec_c2VjcmV0",
            "line 1, column 28",
        ),
        (
            "log = 'info'\ncallback_signing_secrets = \"whsec_c2VjcmV0",
            "line 2",
        ),
        (
            "callback_signing_secrets = '''\n\nwhsec_c2VjcmV0\n''' x",
            "line 4",
        ),
        (
            "callback_signing_secrets = ['whsec_c2VjcmV0']",
            "callback_signing_secrets",
        ),
    ] {
        let file = file(text);
        let read = |layers: Layers| {
            layers.try_parse_secret("callback_signing_secrets", |_| Ok::<_, String>(()))
        };
        let error = Layers::new(Some(file.path()), [])
            .and_then(read)
            .unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(place) && !shown.contains('\n'), "{shown}");
        assert!(
            !format!("{shown} {error:?}").contains("c2VjcmV0"),
            "{error:?}"
        );
    }
}

#[test]
fn a_settings_file_that_cannot_be_used_is_one_line_that_names_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (path, problem) in [
        ("/nowhere.toml".into(), "there is no such file"),
        (folder.path().to_owned(), "it is not a file"),
        ("/dev/zero".into(), "it is not a file"),
        (folder.path().join("a.toml/b"), "there is no such file"),
        (write("empty.toml", b""), "it is empty"),
        (write("blank.toml", b" \n\n"), "it is empty"),
        (
            write("latin1.toml", b"queue_name = 'caf\xe9'"),
            "it is not UTF-8",
        ),
        (
            write("large.toml", &vec![b'#'; 1 << 21]),
            "it is longer than",
        ),
        (
            write("env.toml", b"export LOG=info"),
            "TOML parse error at line 1",
        ),
        (
            write("yaml.toml", b"log: info\n"),
            "TOML parse error at line 1",
        ),
    ] {
        let error = Layers::new(Some(&path), []).err().unwrap().to_string();
        let expected = format!("STORM_CONFIG={}: {problem}", path.display());
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_settings_file_with_secrets_that_others_may_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let warning = |text: &str, mode| {
        let file = file(text);
        let permissions = std::fs::Permissions::from_mode(mode);
        file.as_file().set_permissions(permissions).unwrap();
        let layers = Layers::new(Some(file.path()), []).unwrap();
        layers.file_warning().map(|warning| warning.problem.clone())
    };
    for (text, named) in [
        ("callback_signing_secrets = 'x'", "CALLBACK_SIGNING_SECRETS"),
        ("redis_url = 'redis://:hunter2@host'", "REDIS_URL"),
        ("redis_url = 'unix:///s?pass=hunter2'", "REDIS_URL"),
        ("handlers.pdf.secret = 'hunter2'", "HANDLERS__PDF__SECRET"),
        (
            "handlers.pdf.headers.x-key = 'hunter2'",
            "HANDLERS__PDF__HEADERS__X_KEY",
        ),
    ] {
        for mode in [0o604, 0o640, 0o622] {
            let warning = warning(text, mode).unwrap();
            assert!(
                warning.contains(named) && !warning.contains("hunter2"),
                "{warning}"
            );
        }
        assert_eq!(warning(text, 0o600), None);
    }
    let secret = file("hunter2");
    let elsewhere = format!(
        "handlers.pdf.secret = {{ file = '{}' }}",
        secret.path().display()
    );
    for text in [
        "callback_signing_secrets = ''",
        "redis_url = 'redis://host'",
        "log = 'info'",
        "handlers.pdf.url = 'http://a.example/'",
        elsewhere.as_str(),
        "handlers.pdf.secret = ''",
    ] {
        assert_eq!(warning(text, 0o644), None, "{text}");
    }
}

#[test]
fn a_lower_case_variable_is_ignored_and_reported() {
    let both = [variable("sync_queue", "3"), variable("SYNC_QUEUE", "5")];
    let layers = Layers::new(None, both).unwrap();
    assert_eq!(layers.number("sync_queue", 1..=9).unwrap(), 5);
    assert_eq!(layers.unknown_variables(), ["sync_queue"]);
}

#[test]
fn a_misspelled_variable_is_reported_and_an_unrelated_one_is_not() {
    let unrelated = [
        "PATH",
        "LANG",
        "HTTP_PROXY",
        "DB_HOST",
        "API_KEY",
        "STORM_CONFIG",
        "HANDLERS",
        "_HANDLER",
        "HANDLERS__PDF__KIND",
        "HANDLERS__PDF__SECRET",
    ];
    let misspelled = [
        "CALLBACK_ALOW",
        "HANDLERS_PDF_URL",
        "HANDLER__PDF__URL",
        "STORM_CONF",
        "handlers__pdf__url",
    ];
    let variables = unrelated
        .iter()
        .chain(&misspelled)
        .map(|name| variable(name, "x"));
    let layers = Layers::new(None, variables).unwrap();
    let mut found = layers.unknown_variables().to_vec();
    found.sort();
    let mut misspelled = misspelled.to_vec();
    misspelled.sort_unstable();
    assert_eq!(found, misspelled);
}
