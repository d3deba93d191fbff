//! Which URLs are refused, with which message, and what the others mean.

use redis::{ConnectionAddr, IntoConnectionInfo as _};

use super::{
    DATABASE, EMPTY_USER, FORMS, FRAGMENT, Fault, HOST, NO_HOST, NO_PASSWORD, NOT_PLAIN, PERCENT,
    PORT, QUERY, REFUSED, RESERVED, SOCKET, TLS, UNIX_QUERY, parse,
};

/// Each message, and URLs that it refuses.
const CASES: [(Fault, &[&str]); 16] = [
    (
        FORMS,
        &[
            "",
            "localhost",
            "localhost:6379",
            "http://h",
            "redis:h",
            "redis:/h",
            "redis//h",
            "None",
        ],
    ),
    (
        REFUSED,
        &["redis://0.0.0.0", "redis://[::]:6379", "redis://:%ff@h"],
    ),
    (
        NOT_PLAIN,
        &[
            "redis://h\n0",
            "redis://h\t",
            "redis://\u{0}",
            "redis://\u{fffd}",
        ],
    ),
    (
        TLS,
        &[
            "rediss://h",
            "REDISS://h:6379/0",
            "valkeys://h",
            "rediss://h#insecure",
        ],
    ),
    (
        FRAGMENT,
        &[
            "redis://h#insecure",
            "redis://h/0#",
            "redis://user:12#34",
            "unix:///s#0",
        ],
    ),
    (
        RESERVED,
        &[
            "redis://:p@ss@h",
            "redis://user:12#34@h",
            "redis://user:12/34@h",
            "redis://:12?34@h:6379",
            "redis://h/0?password=p@ss",
            "redis://@@h",
        ],
    ),
    (
        PERCENT,
        &[
            "redis://:100%@h",
            "redis://:%zz@h",
            "redis://h%2",
            "unix:///s?pass=%",
        ],
    ),
    (
        QUERY,
        &[
            "redis://h?ssl=true",
            "redis://h/0?password=hunter2",
            "redis://h?db=1",
            "redis://h?timeout=5",
            "redis://h?protocol=4",
            "redis://h?protocol",
            "redis://h?protocol=2&protocol=3",
            "redis://h?protocol=2&ssl=1",
            "redis://h?PROTOCOL=3",
            "redis://h?=",
        ],
    ),
    (
        DATABASE,
        &[
            "redis://h/x",
            "redis://h/-1",
            "redis://h/+1",
            "redis://h/0/",
            "redis://h//0",
            "redis://h/1/2",
            "redis://h/0x1",
            "redis://h/%30",
            "redis://h/2147483648",
            "redis://h/99999999999999999999",
            "unix:///s?db=x",
        ],
    ),
    (
        NO_HOST,
        &[
            "redis://",
            "redis:///0",
            "redis://:6379",
            "redis://:pw@",
            "redis://:pw@:1/0",
        ],
    ),
    (
        HOST,
        &[
            "redis://a,b",
            "redis://a:1,b:2",
            "redis://::1",
            "redis://h:1:2",
            "redis://ho st",
            "redis://b\u{fc}cher",
            "redis://ho%73t",
            "redis://[::1",
            "redis://[fe80::1%25eth0]",
            "redis://::1]",
            "redis://${HOST}",
            "redis://h;x",
            "redis://*",
        ],
    ),
    (
        PORT,
        &[
            "redis://h:0",
            "redis://h:",
            "redis://h:65536",
            "redis://h:x",
            "redis://h:+1",
            "redis://h:-1",
            "redis://:pw@h:/0",
            "redis://[::1]:0",
        ],
    ),
    (NO_PASSWORD, &["redis://user@h", "redis://hunter2@h:6379/0"]),
    (EMPTY_USER, &["redis://@h", "redis://:@h"]),
    (
        SOCKET,
        &[
            "unix:",
            "unix://",
            "unix:///",
            "unix:s",
            "unix://s",
            "redis+unix://h/s",
            "unix:///s/",
        ],
    ),
    (
        UNIX_QUERY,
        &[
            "unix:///s?x=1",
            "unix:///s?pass=a+b",
            "unix:///s?db=1&db=2",
            "unix:///s?protocol=9",
        ],
    ),
];

#[test]
fn a_redis_url_that_can_only_be_a_mistake_is_refused_and_the_message_says_what_to_change() {
    for (fault, urls) in CASES {
        for url in urls {
            assert_eq!(parse(url), Err(fault), "{url:?}");
        }
    }
}

#[test]
fn every_accepted_redis_url_leads_to_the_address_and_credentials_that_it_shows() {
    let tcp = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
    let unix = |path: &str| ConnectionAddr::Unix(path.into());
    for (url, addr, db, user, password) in [
        ("redis://h", tcp("h", 6379), 0, None, None),
        ("redis://h/", tcp("h", 6379), 0, None, None),
        ("REDIS://h:1/15", tcp("h", 1), 15, None, None),
        (
            "valkey://a-b.c_d:65535",
            tcp("a-b.c_d", 65535),
            0,
            None,
            None,
        ),
        (
            "redis://127.0.0.1:6379/0",
            tcp("127.0.0.1", 6379),
            0,
            None,
            None,
        ),
        ("redis://[::1]:6379", tcp("::1", 6379), 0, None, None),
        (
            "redis://:p%40s%23s@h",
            tcp("h", 6379),
            0,
            None,
            Some("p@s#s"),
        ),
        ("redis://u:a:b@h:7", tcp("h", 7), 0, Some("u"), Some("a:b")),
        (
            "redis://u:p@h/3?protocol=resp3",
            tcp("h", 6379),
            3,
            Some("u"),
            Some("p"),
        ),
        ("redis://h?protocol=2", tcp("h", 6379), 0, None, None),
        ("unix:///run/r.sock", unix("/run/r.sock"), 0, None, None),
        (
            "redis+unix:///r?db=2&user=u&pass=p%2Bq",
            unix("/r"),
            2,
            Some("u"),
            Some("p+q"),
        ),
    ] {
        let accepted = parse(url).unwrap();
        let info = accepted.as_str().into_connection_info().unwrap();
        assert_eq!(*info.addr(), addr, "{url}");
        let redis = info.redis_settings();
        assert_eq!(
            (redis.db(), redis.username(), redis.password()),
            (db, user, password),
            "{url}"
        );
    }
}
