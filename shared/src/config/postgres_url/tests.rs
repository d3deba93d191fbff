use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use super::{PostgresHost, PostgresSettings, PostgresTls, Variables, parse, without_password};

fn parsed(url: &str) -> PostgresSettings {
    parse(url, &Variables::default()).unwrap_or_else(|fault| panic!("{url}: {fault}"))
}

fn tcp(host: &str, port: u16) -> PostgresHost {
    PostgresHost::Tcp(host.to_owned(), port)
}

#[test]
fn every_part_of_a_url_is_read() {
    let all = parsed(
        "postgresql://st%40rm:p%2Fw%3A@db1.example:6432,db2.example,[2001:db8::1]:7/jobs\
         ?sslmode=verify-full&sslrootcert=/etc/ca.pem",
    );
    assert_eq!(all.user, "st@rm");
    assert_eq!(all.password.as_deref(), Some("p/w:"));
    assert_eq!(all.database, "jobs");
    assert_eq!(
        all.hosts,
        [
            tcp("db1.example", 6432),
            tcp("db2.example", 5432),
            tcp("2001:db8::1", 7)
        ]
    );
    assert_eq!(all.tls, PostgresTls::Verified(Some("/etc/ca.pem".into())));
    let socket = parsed("postgres://storm@/jobs?host=/run/postgresql");
    let directory = PathBuf::from("/run/postgresql");
    assert_eq!(socket.hosts, [PostgresHost::Unix(directory, 5432)]);
    assert_eq!(socket.password, None);
}

#[test]
fn connections_off_loopback_are_verified_unless_the_url_says_otherwise() {
    for (url, tls) in [
        ("postgres://u@db.example/d", PostgresTls::Verified(None)),
        ("postgres://u@127.0.0.1,db/d", PostgresTls::Verified(None)),
        ("postgres://u@127.0.0.1/d", PostgresTls::Disabled),
        ("postgres://u@[::1]:6000/d", PostgresTls::Disabled),
        ("postgres://u@localhost/d", PostgresTls::Disabled),
        ("postgres://u@/d?host=/run", PostgresTls::Disabled),
        (
            "postgres://u@localhost/d?sslmode=verify-full",
            PostgresTls::Verified(None),
        ),
        ("postgres://u@db/d?sslmode=require", PostgresTls::Unverified),
        ("postgres://u@db/d?sslmode=disable", PostgresTls::Disabled),
    ] {
        assert_eq!(parsed(url).tls, tls, "{url}");
    }
}

#[test]
fn what_can_only_be_a_mistake_is_refused_with_what_to_change_and_never_quoted() {
    for (url, instead) in [
        ("postgres:", "expected postgres://"),
        ("postgres://", "no user"),
        ("postgres://host/d", "no user"),
        ("postgres://:hunter2@host/d", "no user"),
        ("postgres://u:hunter2@host", "names no database"),
        ("postgres://u:hunter2@host/", "names no database"),
        ("postgres://u:hunter2@host/a/b", "names no database"),
        ("postgres://u:hunter2@/d", "no host"),
        ("postgres://u:hunter2@a,,b/d", "no host"),
        ("postgres://u:hunter2@a:0/d", "1 to 65535"),
        ("postgres://u:hunter2@a:/d", "1 to 65535"),
        ("postgres://u:hunter2@a:x/d", "1 to 65535"),
        ("postgres://u:hunter2@a:70000/d", "1 to 65535"),
        ("postgres://u:hunter2@::1/d", "in brackets"),
        ("postgres://u:hunter2@bücher/d", "in ASCII"),
        ("postgres://u:hunter2@0x7f.1/d", "in ASCII"),
        ("postgres://u:hunt#er2@host/d", "%23"),
        ("postgres://u:hunt?er2@host/d", "%3F"),
        ("postgres://u:hunt/er2@host/d", "%2F"),
        ("postgres://u:hunt@er2@host/d", "%40"),
        ("postgres://u:hunt%er2@host/d", "%25"),
        ("postgres://u:hunt%ff@host/d", "UTF-8"),
        ("postgres://u:hunter2@host/d ", "%20"),
        ("postgres://u@host/d?sslmode=prefer", "sslmode=verify-full"),
        ("postgres://u@host/d?sslmode=allow", "sslmode=verify-full"),
        (
            "postgres://u@host/d?sslmode=verify-ca",
            "sslmode=verify-full",
        ),
        ("postgres://u@host/d?sslmode=yes", "verify-full, require"),
        (
            "postgres://u@host/d?sslmode=require&sslmode=require",
            "twice",
        ),
        ("postgres://u@host/d?sslrootcert=ca.pem", "absolute path"),
        (
            "postgres://u@host/d?sslmode=require&sslrootcert=/ca",
            "verify-full only",
        ),
        ("postgres://u@host/d?host=/run", "a host and a socket"),
        ("postgres://u@host/d?password=hunter2", "PGPASSWORD"),
        ("postgres://u@host/d?pool_size=hunter2", "unknown option"),
    ] {
        let fault = parse(url, &Variables::default()).unwrap_err();
        assert!(fault.contains(instead), "{url}: {fault}");
        assert!(!fault.contains("hunt"), "{url}: {fault}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let settings = parsed("postgres://u:hunter2@db.example:6000,[::1]/d");
    assert_eq!(
        settings.to_string(),
        "postgres://u@db.example:6000,[::1]:5432/d"
    );
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_url_without_its_password_is_the_same_otherwise() {
    for (url, shown) in [
        (
            "postgres://u:hunter%402:x@a,[::1]:1/d?sslmode=require",
            "postgres://u@a,[::1]:1/d?sslmode=require",
        ),
        (
            "postgresql://u%3Av@db:6000/d?sslrootcert=/a:b",
            "postgresql://u%3Av@db:6000/d?sslrootcert=/a:b",
        ),
        (
            "postgres://u:@:6000/d?host=/run",
            "postgres://u@:6000/d?host=/run",
        ),
    ] {
        assert_eq!(without_password(url), shown);
        let (with, without) = (parsed(url), parsed(shown));
        let login = |it: &PostgresSettings| (it.hosts.clone(), it.user.clone(), it.tls.clone());
        assert_eq!(login(&with), login(&without));
        assert_eq!(without.password, None);
    }
}

#[test]
fn a_password_comes_from_the_url_or_else_the_variable_or_else_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    let lines = "#h:5432:d:u:commented\nother:5432:d:u:no\nh:*:d:u:a\\:b\\\\c:d\n*:*:*:v:last\n\
                 h:5432:\\*:w:no\n";
    fs::write(&path, lines).unwrap();
    let file = Some(path.display().to_string());
    let password = |url: &str, variable: Option<&str>| {
        let variables = Variables {
            password: variable.map(str::to_owned),
            file: file.clone(),
        };
        parse(url, &variables).map(|settings| settings.password)
    };
    let refused = password("postgres://u@h/d", None).unwrap_err();
    assert!(refused.contains("chmod 600"), "{refused}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for (url, variable, expected) in [
        ("postgres://u:p@h/d", Some("v"), Some("p")),
        ("postgres://u@h/d", Some("v"), Some("v")),
        ("postgres://u@h/d", Some(""), Some("a:b\\c:d")),
        ("postgres://u@h/d", None, Some("a:b\\c:d")),
        ("postgres://v@any:1/thing", None, Some("last")),
        ("postgres://w@h/d", None, None),
        ("postgres://u@h,h:5433/d", None, Some("a:b\\c:d")),
    ] {
        let found = password(url, variable).unwrap();
        assert_eq!(found.as_deref(), expected, "{url}");
    }
    let refused = password("postgres://u@h,other/d", None).unwrap_err();
    assert!(refused.contains("different passwords"), "{refused}");
}
