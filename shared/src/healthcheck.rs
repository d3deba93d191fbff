//! The subcommand `healthcheck`: a service's verdict on its running self, as an exit status.
//!
//! It is for containers, whose images hold nothing that could ask. What asks is a second process of the
//! same program with the same settings; what it is told is `/healthz`, over loopback.

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
    services::health::{NONE, OK},
};

/// What it is called on the command line.
pub(crate) const NAME: &str = "healthcheck";

/// How long the service may take. Its own checks take a second at most.
const DEADLINE: Duration = Duration::from_secs(3);

/// The longest answer that is read, in bytes: some ten times ours.
const LONGEST: u64 = 4096;

/// Its place on the command line.
pub(crate) fn command() -> Command {
    Command::new(NAME)
        .about("Asks the running service whether it is well")
        .long_about(
            "Asks the running service whether it is well, at the address that its settings give, and says \
             so by the exit status: 0 when it is, 1 when it isn't or nobody answers, 2 for settings that \
             can't be used. A Redis that is down alone is well: jobs run from the table.",
        )
}

/// Why a service is not well. One line.
#[derive(Debug, Error)]
pub(crate) enum Unwell {
    /// Nobody listens, or hangs up.
    #[error("nobody answers: {0}")]
    Unreachable(#[from] std::io::Error),
    /// It hangs.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The answer is none of ours.
    #[error("whoever answers is no service of ours")]
    Stranger,
    /// Its own words.
    #[error("{0}")]
    Failing(String),
}

/// Asks the service that listens on `addr`.
pub(crate) async fn ask(addr: SocketAddr) -> Result<(), Unwell> {
    let answer = tokio::time::timeout(DEADLINE, get(reachable(addr))).await;
    judge(&answer.map_err(|_| Unwell::Late)??)
}

/// An address that means all of the machine's is asked at loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Bytes out, bytes in: a service that has no connection left answers before it is asked, which an HTTP
/// client takes for an error. The answer is one of ours, whole and in one piece, or a stranger's.
async fn get(addr: SocketAddr) -> Result<Map<String, Value>, Unwell> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(Unwell::Stranger)?;
    if !head.starts_with("HTTP/1.1 ") {
        return Err(Unwell::Stranger);
    }
    serde_json::from_str(body).map_err(|_| Unwell::Stranger)
}

/// Every check must be well but that of Redis.
fn judge(health: &Map<String, Value>) -> Result<(), Unwell> {
    // It lives, and has no connection left to say more: nothing that another start would better.
    if health
        .get("type")
        .is_some_and(|kind| kind == server::TOO_MANY_CONNECTIONS)
    {
        return Ok(());
    }
    if !health.contains_key("database") {
        return Err(Unwell::Stranger);
    }
    let failing: Vec<_> = health
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "status" | "redis"))
        .filter(|(_, verdict)| **verdict != OK && **verdict != NONE)
        .map(|(name, verdict)| format!("{name}: {verdict}"))
        .collect();
    if failing.is_empty() {
        Ok(())
    } else {
        Err(Unwell::Failing(failing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{judge, reachable};

    fn verdict(health: Value) -> String {
        let Value::Object(health) = health else {
            panic!("an object")
        };
        judge(&health).map_or_else(|unwell| unwell.to_string(), |()| "well".to_owned())
    }

    #[test]
    fn all_but_redis_must_be_well() {
        for (health, said) in [
            (
                json!({"status": "ok", "database": "ok", "redis": "ok"}),
                "well",
            ),
            (
                json!({"status": "unavailable", "database": "ok", "redis": "unreachable"}),
                "well",
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
                json!({"hello": "world"}),
                "whoever answers is no service of ours",
            ),
        ] {
            assert_eq!(verdict(health), said);
        }
    }

    #[test]
    fn an_unspecified_address_is_asked_at_loopback() {
        for (addr, asked) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:8000", "[::1]:8000"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(reachable(addr.parse().unwrap()).to_string(), asked);
        }
    }
}
