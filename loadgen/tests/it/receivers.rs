//! The answers of the two callback receivers.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, header::ALLOW};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use storm_loadgen::{
    Cli,
    cli::Command,
    ledger::Ledger,
    listen::Listener,
    receiver,
    signatures::{SignatureCounts, Signatures},
    sink::{Sink, Stats},
    workload::Workload,
};
use storm_shared::models::{Records, RequestId};

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

async fn send(method: Method, url: &str, body: String) -> Response<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .body(Full::<Bytes>::from(body));
    let (head, body) = client.request(request.unwrap()).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn only_a_valid_callback_posted_to_the_path_is_recorded() {
    let listener = listener();
    let (webhook, elsewhere) = (listener.url("/webhook"), listener.url("/elsewhere"));
    let workload = Workload::new("Test", 1, Records::new(1, 49).unwrap(), None);
    let ledger = Ledger::new(Arc::new(workload), Signatures::default());
    let _receiving = receiver::receive(listener, "/webhook", &ledger, receiver::MAX_CALLBACK);
    let callback = json!({
        "request_id": RequestId::generate(), "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
        "status": "completed", "checksum": "a6", "report_name": "Test_0001", "records": 1,
    })
    .to_string();

    let get = send(Method::GET, &webhook, String::new()).await;
    assert_eq!(
        (get.status(), &get.headers()[ALLOW]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().unwrap())
    );
    for (url, body, status) in [
        (&elsewhere, callback.clone(), StatusCode::NOT_FOUND),
        (&webhook, "{}".to_owned(), StatusCode::BAD_REQUEST),
        (&webhook, " ".repeat(100_000), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        assert_eq!(send(Method::POST, url, body).await.status(), status);
    }
    assert_eq!(ledger.summary().unexpected, 0);
    assert_eq!(
        send(Method::POST, &webhook, callback).await.status(),
        StatusCode::OK
    );
    assert_eq!(ledger.summary().unexpected, 1);
}

#[tokio::test]
async fn the_sink_fails_the_first_callbacks_and_counts_every_one() {
    let line = "storm-loadgen receive --fail-first 2 --status 204";
    let Command::Receive(options) = Cli::read(line.split_whitespace()).unwrap().command else {
        panic!("not receive")
    };
    let sink = Sink::new(&options, Signatures::default());
    let listener = listener();
    let (anywhere, stats) = (listener.url("/any/path"), listener.url("/stats"));
    let _receiving = sink.serve(listener);
    let callback = json!({"request_id": RequestId::generate()}).to_string();
    for expected in [500, 500, 204] {
        let answer = send(Method::POST, &anywhere, callback.clone()).await;
        assert_eq!(answer.status().as_u16(), expected);
    }
    assert_eq!(
        sink.stats(),
        Stats {
            received: 3,
            unique: 1,
            signatures: SignatureCounts::default(),
        }
    );
    let stats = send(Method::GET, &stats, String::new()).await;
    let stats: Value = serde_json::from_slice(stats.body()).unwrap();
    assert_eq!(
        (&stats["received"], &stats["unique"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(stats["signatures"]["checked"], false);
    assert_eq!(
        send(Method::PUT, &anywhere, callback)
            .await
            .status()
            .as_u16(),
        405
    );
}

#[tokio::test]
async fn the_sink_counts_callbacks_with_bad_signatures() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let Command::Receive(options) = Cli::read(["storm-loadgen", "receive"]).unwrap().command else {
        panic!("not receive")
    };
    let sink = Sink::new(&options, Signatures::parse(secret).unwrap());
    let listener = listener();
    let url = listener.url("/webhook");
    let _receiving = sink.serve(listener);
    let callback = json!({"request_id": RequestId::generate()}).to_string();
    for body in [callback, "{}".to_owned()] {
        assert_eq!(send(Method::POST, &url, body).await.status(), 200);
    }
    let counts = sink.stats().signatures;
    assert_eq!((counts.right, counts.headers, counts.id), (0, 1, 1));
}
