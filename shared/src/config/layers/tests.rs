use std::{io::Write as _, path::Path};

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
fn a_missing_file_is_an_error_that_names_it() {
    let error = Layers::new(Some(Path::new("/nowhere.toml")), [])
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("STORM_CONFIG") && error.contains("/nowhere.toml"),
        "{error}"
    );
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
    let unrelated = ["PATH", "LANG", "HTTP_PROXY", "DB_HOST", "API_KEY"];
    let misspelled = [variable("CALLBACK_ALOW", "x")];
    let variables = misspelled
        .into_iter()
        .chain(unrelated.map(|name| variable(name, "x")));
    assert_eq!(
        Layers::new(None, variables).unwrap().unknown_variables(),
        ["CALLBACK_ALOW"]
    );
}
