//! SSRF: which addresses are dialled and which are refused.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use storm_shared::services::ssrf::{Policy, Rule};
use storm_worker::delivery::{AttemptError, CallbackClient, Network, Stage};
use tokio::net::TcpSocket;

use super::{
    HASTY, PATIENT, attempt, class, client, loopback_client,
    names::{Names, SilentNames},
    scripted::{Receiver, read_request, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const OK_AND_CLOSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn one_refused_address_refuses_the_name_and_nothing_is_dialled() {
    for answer in [
        ["127.0.0.1", "2606:4700::1111"],
        ["2606:4700::1111", "127.0.0.1"],
        ["127.0.0.1", "::1"],
        ["::1", "127.0.0.1"],
        ["::ffff:127.0.0.1", "127.0.0.1"],
    ] {
        // 127.0.0.1 is allowed in the cases where another address of the name is refused.
        let allow = if answer.contains(&"::1") {
            "127.0.0.1"
        } else {
            ""
        };
        let mut receiver = Receiver::answering(OK);
        let client = client(allow, &Names::always(&answer), PATIENT);
        let error = attempt(&client, &receiver.url_of("both.test"))
            .await
            .unwrap_err();
        let AttemptError::Refused(refusal) = &error else {
            panic!("{answer:?}: {error}")
        };
        assert_eq!(refusal.rule, Rule::Loopback);
        assert!(error.class().is_final());
        assert!(receiver.untouched().await, "{answer:?}");
    }
}

#[tokio::test]
async fn dns_rebinding_never_reaches_a_refused_address() {
    let good = Receiver::answering(OK_AND_CLOSE);
    let port = good.address.port();
    let mut bad = Receiver::on(&format!("127.0.0.2:{port}"), |_, stream| {
        read_request(stream);
        write(stream, OK);
    });
    let names = Names::in_order([
        &["127.0.0.1"],
        &["127.0.0.2"],
        &["127.0.0.1"],
        &["127.0.0.2"],
    ]);
    let client = client("127.0.0.1", &names, PATIENT);
    let url = good.url_of("rebinding.test");
    for expected in [
        Ok(200),
        Err("refused"),
        Ok(200),
        Err("refused"),
        Err("refused"),
    ] {
        assert_eq!(class(&client, &url).await, expected);
    }
    assert!(bad.untouched().await);
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_every_new_connection() {
    let names = Names::always(&["127.0.0.1"]);
    let client = client("127.0.0.1", &names, PATIENT);
    let closing = Receiver::answering(OK_AND_CLOSE);
    for lookups in 1..=3 {
        assert_eq!(class(&client, &closing.url_of("one.test")).await, Ok(200));
        assert_eq!(names.asked(), lookups);
    }
    let keeping = Receiver::answering(OK);
    for _ in 0..3 {
        assert_eq!(class(&client, &keeping.url_of("one.test")).await, Ok(200));
        assert_eq!(names.asked(), 4);
    }
}

#[tokio::test]
async fn after_a_refused_connection_the_next_address_is_dialled() {
    let receiver = Receiver::answering(OK);
    let names = Names::always(&["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.1"]);
    let client = client("127.0.0.0/8", &names, PATIENT);
    assert_eq!(class(&client, &receiver.url_of("four.test")).await, Ok(200));
}

#[tokio::test]
async fn at_most_four_addresses_of_a_name_are_dialled() {
    let mut receiver = Receiver::answering(OK);
    let names = Names::always(&[
        "127.0.0.2",
        "127.0.0.3",
        "127.0.0.4",
        "127.0.0.5",
        "127.0.0.1",
    ]);
    let client = client("127.0.0.0/8", &names, PATIENT);
    assert_eq!(
        class(&client, &receiver.url_of("five.test")).await,
        Err("connect")
    );
    assert!(receiver.untouched().await);
}

/// A listener whose backlog is full: the kernel drops further connection attempts. Its address, and
/// what keeps it so.
fn silent_listener() -> (SocketAddr, impl Sized) {
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let silent = silent.listen(0).unwrap();
    let silent_address = silent.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&silent_address, HASTY) {
        filling.push(stream);
    }
    (silent_address, (silent, filling))
}

#[tokio::test]
async fn a_dead_first_address_delays_a_callback_only_briefly() {
    let (silent_address, _silent) = silent_listener();
    let on = format!("127.0.0.1:{}", silent_address.port());
    let receiver = Receiver::on(&on, |_, stream| {
        read_request(stream);
        write(stream, OK);
    });
    let names = Names::always(&["127.0.0.2", "127.0.0.1"]);
    let client = client("127.0.0.0/8", &names, PATIENT);
    let url = receiver.url_of("two.test");
    // A quarter of a second; half of PATIENT if they were dialled one after the other.
    let answered = tokio::time::timeout(PATIENT / 4, class(&client, &url)).await;
    assert_eq!(answered, Ok(Ok(200)));
}

#[tokio::test]
async fn a_silent_address_leaves_time_for_the_next() {
    let (silent_address, _silent) = silent_listener();
    let receiver = Receiver::on(
        &format!("127.0.0.1:{}", silent_address.port()),
        |_, stream| {
            read_request(stream);
            write(stream, OK);
        },
    );
    let names = Names::always(&["127.0.0.2", "127.0.0.1"]);
    let client = client("127.0.0.0/8", &names, Duration::from_secs(2));
    assert_eq!(class(&client, &receiver.url_of("two.test")).await, Ok(200));

    let only_silent = format!("http://{silent_address}/");
    let error = attempt(&loopback_client(HASTY), &only_silent)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            AttemptError::Timeout {
                stage: Stage::Connect
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_literal_is_checked_in_every_spelling() {
    let mut receiver = Receiver::answering(OK);
    let client = client("", &Names::none(), PATIENT);
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ] {
        assert_eq!(
            class(&client, &receiver.url_of(host)).await,
            Err("refused"),
            "{host}"
        );
    }
    assert!(receiver.untouched().await);
}

#[tokio::test]
async fn an_allowed_address_literal_is_dialled_in_every_spelling() {
    let receiver = Receiver::answering(OK);
    let client = loopback_client(PATIENT);
    for host in ["127.0.0.1", "127.1", "0x7f.1", "[::ffff:127.0.0.1]"] {
        assert_eq!(
            class(&client, &receiver.url_of(host)).await,
            Ok(200),
            "{host}"
        );
    }
}

#[tokio::test]
async fn localhost_is_both_loopback_addresses_without_a_look_up() {
    for (allow, expected) in [
        ("", Err("refused")),
        ("127.0.0.1", Err("refused")),
        ("::1", Err("refused")),
        ("127.0.0.1,::1", Ok(200)),
    ] {
        for host in ["localhost", "LOCALHOST", "localhost.", "a.b.localhost"] {
            let mut receiver = Receiver::answering(OK);
            let names = Names::always(&["127.0.0.1"]);
            let client = client(allow, &names, PATIENT);
            assert_eq!(
                class(&client, &receiver.url_of(host)).await,
                expected,
                "{allow} {host}"
            );
            assert_eq!(names.asked(), 0);
            assert_eq!(receiver.untouched().await, expected.is_err());
        }
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failed_lookup() {
    for names in [Names::none(), Names::always(&[])] {
        let client = client("", &names, PATIENT);
        let error = attempt(&client, "http://no.test/path?secret")
            .await
            .unwrap_err();
        assert_eq!(error.class().as_str(), "resolve");
        assert!(
            error.to_string().starts_with("name look-up failed: "),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_hanging_name_server_times_out_at_the_lookup_stage() {
    let client = CallbackClient::new(
        Policy::default(),
        Network::with_resolver(Arc::new(SilentNames)),
        HASTY,
        None,
    )
    .unwrap();
    let error = attempt(&client, "http://silent.test/").await.unwrap_err();
    assert!(
        matches!(
            error,
            AttemptError::Timeout {
                stage: Stage::Lookup
            }
        ),
        "{error}"
    );
}
