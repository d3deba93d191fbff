//! What every operation refuses is as described: each is sent what is wrong with any request.

use serde_json::Value;
use tokio::task::JoinSet;

use super::{DOCUMENT, filled};
use crate::{
    admin::Operated,
    auth::bearing,
    client::{Client, bare, post},
    server::Server,
};

/// An operation of the document, and a request for it.
struct Asked {
    request: String,
    operation: &'static Value,
}

fn all() -> impl Iterator<Item = Asked> {
    let paths = DOCUMENT["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, operation)| {
            let has_body = operation.get("requestBody").is_some();
            let request = if has_body {
                post(&filled(path), "{}")
            } else {
                bare(&method.to_ascii_uppercase(), &filled(path))
            };
            Asked { request, operation }
        })
    })
}

impl Asked {
    fn has_body(&self) -> bool {
        self.operation.get("requestBody").is_some()
    }

    fn changes(&self) -> bool {
        !self.request.starts_with("GET")
    }

    fn is_of_operators(&self) -> bool {
        self.operation["security"][0].get("operator").is_some()
    }

    fn needs_token(&self) -> bool {
        self.operation["security"] != Value::Array(Vec::new())
    }

    /// Whether this status is described.
    fn has(&self, status: u16) -> bool {
        self.operation["responses"]
            .get(status.to_string())
            .is_some()
    }

    /// The request with another line in its head.
    fn with(&self, line: &str) -> String {
        self.request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1)
    }

    /// With a body of this transfer coding, which no operation takes.
    fn coded(&self) -> String {
        let request = self.request.split("content-length").next().unwrap();
        let request = request.trim_end();
        format!("{request}\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    }

    /// With a body that does not arrive, of this length.
    fn unfinished(&self, length: usize) -> String {
        let request = self.request.split("content-length").next().unwrap();
        let request = request.trim_end();
        format!("{request}\r\ncontent-length: {length}\r\n\r\n")
    }

    fn described(&self, status: u16, what: &str) {
        assert!(
            self.has(status),
            "{} describes no {status}: {what}",
            self.request
        );
    }
}

// The client compares each answer with the description.
#[tokio::test]
async fn what_every_operation_refuses_is_described() {
    let it = Operated::start(&[]).await;
    for asked in all() {
        let (own, other) = if asked.is_of_operators() {
            (&it.operator, &it.client)
        } else {
            (&it.client, &it.operator)
        };
        let repeated = bearing(own, &asked.with("host: localhost"));
        let mut wrong = vec![(repeated, 400)];
        if asked.needs_token() {
            wrong.push((asked.request.clone(), 401));
            // A scrape has no right of an operator's to refuse.
            if !asked.request.contains("/metrics") {
                wrong.push((bearing(other, &asked.request), 403));
            }
        }
        if asked.changes() {
            let cross = bearing(own, &asked.with("origin: https://evil.example"));
            wrong.push((cross, 403));
            wrong.push((bearing(own, &asked.coded()), 501));
        }
        if asked.has_body() {
            let text = asked.request.replace("application/json", "text/plain");
            wrong.push((bearing(own, &text), 415));
            wrong.push((bearing(own, &asked.request.replace("{}", "[]")), 400));
            wrong.push((bearing(own, &asked.unfinished(99_999_999)), 413));
        } else if asked.changes() {
            let request = asked.request.trim_end();
            let body = format!("{request}\r\ncontent-length: 2\r\n\r\n{{}}");
            wrong.push((bearing(own, &body), 415));
        }
        for (request, status) in wrong {
            asked.described(status, &request);
            assert_eq!(it.server.ask(&request).await.status, status, "{request}");
        }
    }
}

#[tokio::test]
async fn every_operation_refuses_a_body_that_does_not_arrive_as_described() {
    let it = Operated::start(&[("HTTP_TIMEOUT", "1s")]).await;
    let mut asking = JoinSet::new();
    for asked in all().filter(Asked::changes) {
        let token = if asked.is_of_operators() {
            &it.operator
        } else {
            &it.client
        };
        let request = bearing(token, &asked.unfinished(2));
        let addr = it.server.addr;
        asking.spawn(async move {
            asked.described(408, &request);
            let mut client = Client::connect(addr).await;
            client.send(&request).await;
            assert_eq!(client.answer().await.status, 408, "{request}");
        });
    }
    asking.join_all().await;
}

#[tokio::test]
async fn without_tokens_every_operation_answers_as_described() {
    let server = Server::start(&[]).await;
    for asked in all() {
        let foreign = asked
            .request
            .replace("host: localhost", "host: evil.example");
        asked.described(421, &foreign);
        assert_eq!(server.ask(&foreign).await.status, 421, "{foreign}");
        if asked.is_of_operators() {
            asked.described(404, "there are no operators");
            assert_eq!(server.ask(&asked.request).await.status, 404);
        }
    }
}

#[tokio::test]
async fn every_operation_with_a_rate_limit_answers_as_described_past_it() {
    let server = Server::start(&[("RATE_LIMIT", "1/h")]).await;
    assert_eq!(server.ask(bare("GET", "/handlers")).await.status, 200);
    for asked in all().filter(Asked::needs_token) {
        // Not limited, where it is served.
        if asked.request.contains("/metrics") {
            continue;
        }
        asked.described(429, &asked.request);
        assert_eq!(server.ask(&asked.request).await.status, 429);
    }
}
