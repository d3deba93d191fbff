//! The subcommand `healthcheck`: asks the running service for its health and exits accordingly.
//!
//! It is for containers, whose images contain no HTTP client. A second process of the same program,
//! with the same settings, requests `/healthz` over loopback.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Command;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    server,
    services::{
        health::{CONNECTIONS, NONE, OK, OWNER, PAUSED, PAUSED_ORIGINS},
        problem::TYPE_PREFIX,
    },
};

/// The subcommand's name.
pub(crate) const NAME: &str = "healthcheck";

/// Time for the answer. The service's own checks take at most one second.
const DEADLINE: Duration = Duration::from_secs(3);

/// The most bytes of an answer that are read: ten times the size of our own.
const MAX_ANSWER: u64 = 4096;

/// The subcommand's command line.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Checks whether the running service is healthy")
        .long_about(
            "Checks whether the service that runs with the same settings is healthy. Exit status: \
             0 healthy, 1 unhealthy or no answer, 2 a setting is not accepted. A service whose \
             only problem is Redis is healthy: jobs run from the database.",
        )
}

/// Why a service is not healthy. One line.
#[derive(Debug, Error)]
pub(crate) enum Unhealthy {
    /// No connection, or the connection broke.
    #[error("no answer: {0}")]
    Unreachable(#[from] std::io::Error),
    /// No answer before the deadline.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The answer is not one of our `/healthz`.
    #[error("another service answered on this port")]
    Foreign,
    /// The service answers with a problem.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The failed checks.
    #[error("{0}")]
    Failing(String),
}

/// Checks the service that listens on `addr`.
pub(crate) async fn check(addr: SocketAddr) -> Result<(), Unhealthy> {
    let answer = tokio::time::timeout(DEADLINE, get(reachable(addr))).await;
    evaluate(&answer.map_err(|_| Unhealthy::Late)??)
}

/// Replaces the unspecified address, on which the service listens on all addresses, by loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Requests `/healthz` over a bare TCP stream.
///
/// A service at its connection limit answers 503 before it reads the request, which an HTTP client
/// reports as an error. Our answers are never chunked, so everything after the head is the body.
async fn get(addr: SocketAddr) -> Result<Map<String, Value>, Unhealthy> {
    let mut stream = TcpStream::connect(addr).await?;
    // `connection: close` lets the answer end with the connection, without a length to parse.
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(Unhealthy::Foreign)?;
    if !head.starts_with("HTTP/1.1 ") {
        return Err(Unhealthy::Foreign);
    }
    serde_json::from_str(body).map_err(|_| Unhealthy::Foreign)
}

/// What does not decide whether a service is healthy.
const NO_CHECKS: [&str; 6] = [
    "status",
    "redis",
    OWNER,
    CONNECTIONS,
    PAUSED,
    PAUSED_ORIGINS,
];

/// Every check except that of Redis must have passed.
fn evaluate(health: &Map<String, Value>) -> Result<(), Unhealthy> {
    // At its connection limit the service is alive, and a restart would not help.
    if health
        .get("type")
        .is_some_and(|kind| kind == server::TOO_MANY_CONNECTIONS)
    {
        return Ok(());
    }
    if !health.contains_key("database") {
        return Err(problem(health).unwrap_or(Unhealthy::Foreign));
    }
    let failing: Vec<_> = health
        .iter()
        // `status` sums up all checks, with that of Redis. Jobs run without Redis, and a restart
        // would not repair it. A pause is no fault; the pool and the owner are no checks.
        .filter(|(name, _)| !NO_CHECKS.contains(&name.as_str()))
        .filter(|(_, result)| **result != OK && **result != NONE)
        .map(|(name, result)| format!("{name}: {result}"))
        .collect();
    if failing.is_empty() {
        Ok(())
    } else {
        Err(Unhealthy::Failing(failing.join(", ")))
    }
}

/// The problem with which the service answers instead of its health, such as while its database is
/// not open yet.
fn problem(health: &Map<String, Value>) -> Option<Unhealthy> {
    let kind = health.get("type")?.as_str()?;
    let kind = kind.strip_prefix(TYPE_PREFIX)?.escape_debug();
    let detail = health.get("detail")?; // printed as JSON, and so in one line
    Some(Unhealthy::NotReady(format!("{kind}: {detail}")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{evaluate, reachable};

    fn outcome(health: Value) -> String {
        let Value::Object(health) = health else {
            panic!("not an object")
        };
        evaluate(&health).map_or_else(|unhealthy| unhealthy.to_string(), |()| "healthy".to_owned())
    }

    #[test]
    fn every_check_except_redis_must_pass() {
        for (health, expected) in [
            (
                json!({"status": "ok", "database": "ok", "redis": "ok"}),
                "healthy",
            ),
            (
                json!({"status": "unavailable", "database": "ok", "redis": "unreachable"}),
                "healthy",
            ),
            (
                json!({"status": "ok", "database": "ok", "redis": "ok", "paused": true,
                       "paused_origins": 2, "database_connections": {"open": 1},
                       "owner": "63670df4-1130-440f-a751-7aa0ac64850b"}),
                "healthy",
            ),
            (
                json!({"status": "unavailable", "database": "full", "redis": "none"}),
                r#"database: "full""#,
            ),
            (
                json!({"database": "ok", "redis": "ok", "claims": "stopped", "heartbeat": "ok"}),
                r#"claims: "stopped""#,
            ),
            (json!({"database": null}), "database: null"),
            (
                json!({"type": "urn:storm:problem:database-unavailable", "detail": "Wait."}),
                r#"not ready: database-unavailable: "Wait.""#,
            ),
            (
                json!({"status": "unavailable", "database": "not open yet"}),
                r#"database: "not open yet""#,
            ),
            (
                json!({"type": "about:blank", "detail": "Wait."}),
                "another service answered on this port",
            ),
            (
                json!({"hello": "world"}),
                "another service answered on this port",
            ),
        ] {
            assert_eq!(outcome(health), expected);
        }
    }

    #[test]
    fn an_unspecified_address_is_replaced_by_loopback() {
        for (addr, expected) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:8000", "[::1]:8000"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(reachable(addr.parse().unwrap()).to_string(), expected);
        }
    }
}
