use std::{
    io::Write as _,
    sync::{Arc, Mutex},
};

use super::{Reread, Rereader};
use crate::config::{SettingError, Settings, layers::Layers, updates::Updates};

const NAME: &str = "a:0000000000000000000000000000000000000000000000000000000000000001";

fn layers(text: &str, variables: &[(&str, &str)]) -> Result<Layers, SettingError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Layers::new(Some(file.path()), variables)
}

/// A process that started with this file and environment.
struct Process {
    rereader: Rereader,
    variables: &'static [(&'static str, &'static str)],
    /// The rate limits that a part was told of.
    limits: Arc<Mutex<Vec<Option<u32>>>>,
}

impl Process {
    fn start(text: &str, variables: &'static [(&'static str, &'static str)]) -> Self {
        let started = layers(text, variables).unwrap();
        let updates = Updates::default();
        let limits = Arc::default();
        updates.pass_to(record(&limits));
        let rereader = Rereader {
            latest: started.clone(),
            started,
            updates,
        };
        Self {
            rereader,
            variables,
            limits,
        }
    }

    fn reread(&mut self, text: &str) -> Result<Reread, String> {
        let reread = layers(text, self.variables)
            .and_then(|layers| self.rereader.accept(layers, |_| Ok(())));
        reread.map_err(|error| error.to_string())
    }

    fn limits(&self) -> Vec<Option<u32>> {
        self.limits.lock().unwrap().clone()
    }
}

fn record(limits: &Arc<Mutex<Vec<Option<u32>>>>) -> impl Fn(&Settings) + Send + 'static {
    let limits = Arc::clone(limits);
    move |settings| {
        let limit = settings.access.rate_limit;
        limits
            .lock()
            .unwrap()
            .push(limit.map(|limit| limit.requests.get()));
    }
}

#[test]
fn a_changed_setting_is_passed_on_and_one_that_needs_a_restart_is_named_until_then() {
    let mut process = Process::start("log = 'warn'", &[]);
    let reread = process
        .reread("log = 'info'\nrate_limit = '5/s'\nsync_queue = 7")
        .unwrap();
    assert_eq!(reread.changed, ["RATE_LIMIT"]);
    assert_eq!(reread.need_restart, ["LOG", "SYNC_QUEUE"]);
    let reread = process.reread("log = 'info'\nrate_limit = '5/s'").unwrap();
    assert!(reread.changed.is_empty(), "{reread:?}");
    assert_eq!(reread.need_restart, ["LOG"]);
    let reread = process.reread("log = 'warn'\nrate_limit = '6/s'").unwrap();
    assert_eq!(reread.changed, ["RATE_LIMIT"]);
    assert!(reread.need_restart.is_empty(), "{reread:?}");
    assert_eq!(process.limits(), [Some(5), Some(5), Some(6)]);
}

#[test]
fn a_part_that_starts_after_a_reread_is_told_of_it() {
    let mut process = Process::start("log = 'warn'", &[]);
    process.reread("rate_limit = '5/s'").unwrap();
    let late = Arc::default();
    process.rereader.updates.pass_to(record(&late));
    assert_eq!(*late.lock().unwrap(), [Some(5)]);
}

#[test]
fn a_file_that_is_not_accepted_changes_nothing_and_the_error_is_that_of_a_start() {
    let mut process = Process::start("rate_limit = '5/s'", &[]);
    for (text, error) in [
        ("rate_limit = '6/s'\nsync_queue = -1", "SYNC_QUEUE=-1: "),
        (
            "rate_limit = 'many'",
            "RATE_LIMIT=many: expected nothing, or",
        ),
        ("rate_limit = '6/s'\nrate_limits = 1", "unknown setting"),
        ("rate_limit = '6/s", "STORM_CONFIG="),
        ("", "it is empty"),
    ] {
        let refused = process.reread(text).unwrap_err();
        assert!(refused.contains(error), "{refused}");
    }
    let layers = layers("rate_limit = '6/s'", &[]).unwrap();
    let refused = process.rereader.accept(layers, |_| {
        Err(SettingError::File("the service may not".into()))
    });
    refused.unwrap_err();
    assert!(process.limits().is_empty());
    assert_eq!(
        process.reread("rate_limit = '6/s'").unwrap().changed,
        ["RATE_LIMIT"]
    );
}

#[test]
fn a_setting_of_the_environment_stays_and_the_files_is_reported_as_overridden() {
    let mut process = Process::start("rate_limit = '5/s'", &[("RATE_LIMIT", "9/s")]);
    let reread = process.reread("rate_limit = '6/s'").unwrap();
    assert!(reread.changed.is_empty(), "{reread:?}");
    assert_eq!(reread.overridden, ["RATE_LIMIT"]);
    assert_eq!(process.limits(), [Some(9)]);
    let reread = process.reread("rate_limit = '9/s'").unwrap();
    assert!(reread.overridden.is_empty(), "{reread:?}");
}

#[test]
fn authentication_is_turned_on_by_a_reread_and_off_only_by_a_restart() {
    let mut process = Process::start("log = 'warn'", &[]);
    let settings = [
        ("API_TOKENS", format!("api_tokens = '{NAME}'")),
        (
            "ADMIN_TOKENS",
            format!(
                "admin_tokens = '{}'",
                NAME.replace('a', "ops").replace('1', "2")
            ),
        ),
        ("RATE_LIMIT", "rate_limit = '5/s'".to_owned()),
    ];
    let all = settings.clone().map(|(_, line)| line).join("\n");
    assert_eq!(
        process.reread(&all).unwrap().changed,
        ["ADMIN_TOKENS", "API_TOKENS", "RATE_LIMIT"]
    );
    for (name, line) in settings {
        let refused = process.reread(&all.replace(&line, "")).unwrap_err();
        assert_eq!(
            refused,
            format!("{name}=: it was set and is empty now; only a restart turns it off")
        );
    }
    assert_eq!(process.limits(), [Some(5)]);
}

const HANDLER: &str = "[handlers.pdf]\nurl = 'http://a.example/'";

#[test]
fn a_handler_that_is_added_changed_or_removed_is_named_once_and_passed_on() {
    let mut process = Process::start("log = 'warn'", &[]);
    let names = Arc::<Mutex<Vec<_>>>::default();
    process.rereader.updates.pass_to({
        let names = Arc::clone(&names);
        move |settings| {
            let handlers = settings.handlers.iter();
            *names.lock().unwrap() = handlers.map(|one| one.name.to_string()).collect();
        }
    });
    let two = format!("{HANDLER}\n[handlers.a]\nkind = 'rust'");
    for (text, changed, now) in [
        (
            two.as_str(),
            &["HANDLERS__A", "HANDLERS__PDF"][..],
            &["a", "pdf"][..],
        ),
        (&two, &[], &["a", "pdf"]),
        (HANDLER, &["HANDLERS__A"], &["pdf"]),
        (
            &format!("{HANDLER}\ntimeout = '1s'\nconcurrency = 3"),
            &["HANDLERS__PDF"],
            &["pdf"],
        ),
        ("log = 'warn'", &["HANDLERS__PDF"], &[]),
    ] {
        let reread = process.reread(text).unwrap();
        assert_eq!(reread.changed, changed, "{text}");
        let without_log = text.contains("log");
        assert_eq!(reread.need_restart.is_empty(), without_log, "{reread:?}");
        assert_eq!(*names.lock().unwrap(), now, "{text}");
    }
}

#[test]
fn a_new_secret_in_a_handlers_own_file_is_a_change_of_the_handler() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let path = secret.path().display().to_string();
    let text = format!("{HANDLER}\nsecret = {{ file = '{path}' }}");
    let of = |first: char| {
        let secret = format!("whsec_{first}JZ3nQkBzqk2GmP2Ih7XyC5S0cLrE4yTnWbUoD9aFxM=\n");
        std::fs::write(&path, secret).unwrap();
    };
    of('V');
    let mut process = Process::start(&text, &[]);
    assert!(process.reread(&text).unwrap().changed.is_empty());
    of('W');
    assert_eq!(process.reread(&text).unwrap().changed, ["HANDLERS__PDF"]);
    std::fs::write(&path, "").unwrap();
    let refused = process.reread(&text).unwrap_err();
    assert!(
        refused.starts_with("HANDLERS__PDF__SECRET__FILE=/"),
        "{refused}"
    );
}

#[test]
fn a_table_that_is_not_accepted_changes_nothing() {
    let mut process = Process::start(&format!("rate_limit = '5/s'\n{HANDLER}"), &[]);
    for (text, error) in [
        (
            "rate_limit = '6/s'\n[handlers.pdf]",
            "HANDLERS__PDF__URL: it is missing",
        ),
        (
            "rate_limit = '6/s'\n[handlers.pdf]\nulr = 'x'",
            "unknown setting `handlers.pdf.ulr`",
        ),
    ] {
        let refused = process.reread(text).unwrap_err();
        assert!(refused.contains(error), "{refused}");
    }
    assert!(process.limits().is_empty());
}

#[test]
fn a_handlers_secret_is_emptied_only_by_a_restart_or_with_the_handler() {
    let with = |secret: &str| format!("{HANDLER}\nsecret = '{secret}'");
    let secret = "whsec_VJZ3nQkBzqk2GmP2Ih7XyC5S0cLrE4yTnWbUoD9aFxM=";
    let mut process = Process::start(&with(secret), &[]);
    for text in [HANDLER, &with("")] {
        assert_eq!(
            process.reread(text).unwrap_err(),
            "HANDLERS__PDF__SECRET=: it was set and is empty now; only a restart turns it off"
        );
    }
    let rust = process.reread("[handlers.pdf]\nkind = 'rust'").unwrap();
    assert_eq!(rust.changed, ["HANDLERS__PDF"]);
    process.reread(&with(secret)).unwrap();
    let removed = process.reread("log = 'info'").unwrap();
    assert_eq!(removed.changed, ["HANDLERS__PDF"]);
}

#[test]
fn handlers_share_the_slots_of_the_start_until_a_restart() {
    let mut process = Process::start("worker_concurrency = 300", &[]);
    let text = format!("worker_concurrency = 1000\n{HANDLER}\nconcurrency = 151");
    let refused = process.reread(&text).unwrap_err();
    let expected = "WORKER_CONCURRENCY=300: half of it, 150, is for handlers, and their \
                    concurrency is 151 in total: raise it to 302, which needs a restart";
    assert!(refused.starts_with(expected), "{refused}");
    process.reread(&text.replace("151", "150")).unwrap();
}

#[test]
fn a_handlers_key_of_the_environment_stays_and_the_table_is_reported_as_overridden() {
    let variables = &[("HANDLERS__PDF__TIMEOUT", "9s")];
    let mut process = Process::start(HANDLER, variables);
    let reread = process
        .reread(&format!("{HANDLER}\ntimeout = '8s'"))
        .unwrap();
    assert_eq!(reread.overridden, ["HANDLERS__PDF"]);
    assert!(reread.changed.is_empty(), "{reread:?}");
    let reread = process
        .reread(&format!("{HANDLER}\nmax_result = '2MiB'"))
        .unwrap();
    assert!(reread.overridden.is_empty(), "{reread:?}");
    assert_eq!(reread.changed, ["HANDLERS__PDF"]);
}
