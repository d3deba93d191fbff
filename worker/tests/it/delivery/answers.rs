//! The classification of responses, and the read of their bodies.

use std::sync::{Arc, Mutex, mpsc};

use storm_worker::delivery::{AttemptError, Stage};

use super::{
    HASTY, ID, PATIENT, TRACEPARENT, attempt, class, loopback_client,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn any_2xx_is_success_and_any_other_status_is_an_error_with_that_status() {
    let client = loopback_client(PATIENT);
    for status in [200, 201, 202, 204, 226, 299] {
        let receiver = Receiver::answering(format!(
            "HTTP/1.1 {status} Fine\r\ncontent-length: 0\r\n\r\n"
        ));
        assert_eq!(class(&client, &receiver.url()).await, Ok(status));
    }
    for status in [301, 304, 400, 404, 410, 429, 500, 503, 599, 999] {
        let receiver =
            Receiver::answering(format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n"));
        let error = attempt(&client, &receiver.url()).await.unwrap_err();
        assert!(
            matches!(error, AttemptError::Status { status: got, .. } if got.as_u16() == status)
        );
        assert_eq!(error.to_string(), format!("HTTP status {status}"));
        assert_eq!(error.class().is_final(), status == 410);
    }
}

#[tokio::test]
async fn the_request_is_a_post_of_the_bytes_to_the_urls_path_and_query() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        let _ = report.blocking_send(read_request(stream).unwrap());
        write(stream, OK);
    });
    let url = format!("http://{}/a/../hook?q=%20#fragment", receiver.address);
    attempt(&loopback_client(PATIENT), &url).await.unwrap();

    let text = reported.recv().await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (mut lines, timestamp): (Vec<_>, Vec<_>) = head
        .lines()
        .partition(|line| !line.starts_with("webhook-timestamp: "));
    assert_eq!(timestamp.len(), 1);
    lines.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        lines,
        [
            "POST /hook?q=%20 HTTP/1.1",
            "content-length: 16",
            "content-type: application/json",
            &format!("host: {}", receiver.address),
            "storm-callback: 1",
            &format!("traceparent: {TRACEPARENT}"),
            &format!("user-agent: request-storm-handler/{version}"),
            &format!("webhook-id: {ID}"),
        ]
    );
    assert_eq!(body, "{\"request_id\":1}");
}

#[tokio::test]
async fn a_hanging_receiver_times_out_and_its_connection_is_closed() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let error = attempt(&loopback_client(HASTY), &receiver.url())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            AttemptError::Timeout {
                stage: Stage::Answer
            }
        ),
        "{error}"
    );
    assert_eq!(error.to_string(), "timed out (stage: answer)");
    reported.recv().await.unwrap();
}

#[tokio::test]
async fn a_slow_drip_response_head_does_not_extend_the_deadline() {
    let receiver = Receiver::start(|_, stream| {
        read_request(stream);
        write(stream, "HTTP/1.1 100 Continue\r\nx: ");
        while write(stream, "x") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    assert_eq!(
        class(&loopback_client(HASTY), &receiver.url()).await,
        Err("timeout")
    );
}

#[tokio::test]
async fn a_refused_connection_is_a_connect_error_with_the_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{free}/path?secret");
    let error = attempt(&loopback_client(PATIENT), &url).await.unwrap_err();
    assert_eq!(error.class().as_str(), "connect");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("could not connect: {free}: Connection refused")),
        "{text}"
    );
    assert!(!text.contains("secret"));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut target = Receiver::answering(OK);
    for status in [301, 302, 303, 307, 308] {
        let location = target.url();
        let receiver = Receiver::answering(format!(
            "HTTP/1.1 {status} There\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        ));
        assert_eq!(
            class(&loopback_client(PATIENT), &receiver.url()).await,
            Err("status")
        );
    }
    assert!(target.untouched().await);
}

#[tokio::test]
async fn an_endless_body_after_200_is_success_and_closes_the_connection() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(
            stream,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        while write(stream, &chunk) {}
        let _ = report.blocking_send(());
    });
    assert_eq!(
        class(&loopback_client(PATIENT), &receiver.url()).await,
        Ok(200)
    );
    reported.recv().await.unwrap();
}

#[tokio::test]
async fn a_stalled_body_after_200_is_success_and_closes_the_connection() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n");
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    assert_eq!(
        class(&loopback_client(PATIENT), &receiver.url()).await,
        Ok(200)
    );
    reported.recv().await.unwrap();
}

#[tokio::test]
async fn a_2xx_succeeds_before_its_body_arrives_and_the_connection_is_kept_alive() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let receiver = Receiver::start(move |_, stream| {
        while read_request(stream).is_some() {
            write(stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
            // The body is sent only after the attempt has ended.
            if released.lock().unwrap().recv().is_err() || !write(stream, "ok") {
                return;
            }
        }
    });
    let client = loopback_client(PATIENT);
    assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    release.send(()).unwrap();
    // The connection returns to the pool once its body is read. Attempts before that open new
    // connections, which become idle too.
    let mut attempts = 1;
    while receiver.connections() == attempts {
        assert!(attempts < 1000, "no connection was ever kept");
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
        release.send(()).unwrap();
        attempts += 1;
    }
}
