//! `REDIS_URL`: what it may contain, and what to change where it can only be a mistake.
//!
//! No message quotes the URL, because any part of it can be a piece of a password: an unescaped
//! `#`, `?` or `/` in a password ends the host early, and the service would dial another host.

use redis::IntoConnectionInfo as _;
use url::{Host, Url};

use super::layers::{PLAIN as NOT_PLAIN, is_plain};

/// What is wrong, and what to change.
type Fault = &'static str;

const FORMS: Fault = "expected redis://[[user]:password@]host[:port][/database], \
    unix:///path[?db=database], or none";
const TLS: Fault =
    "TLS to Redis is not built in; use redis:// and a TLS tunnel or a private network";
const FRAGMENT: Fault = "it has a #, which starts a fragment; in a password write # as %23";
const RESERVED: Fault = "a password or user name contains one of / ? # @ unescaped; write / as \
    %2F, ? as %3F, # as %23 and @ as %40";
const PERCENT: Fault = "it has a % without two hexadecimal digits; in a password write % as %25";
const QUERY: Fault = "unknown option after the ?; only protocol=resp2 or protocol=resp3 is \
    accepted. A password goes before the host (redis://:password@host); TLS is not built in";
const UNIX_QUERY: Fault = "unknown or repeated option after the ?; a Unix socket accepts db, user, \
    pass and protocol, with %20 for a space and %2B for a +";
const DATABASE: Fault = "the path must be a database number, such as /0, or be left out";
const NO_HOST: Fault = "it has no host; expected redis://[[user]:password@]host[:port][/database]";
const HOST: Fault = "the host must be one DNS name in ASCII, an IPv4 address, or an IPv6 address in \
    brackets";
const PORT: Fault = "the port must be a number from 1 to 65535, or be left out with its colon";
const NO_PASSWORD: Fault = "it has a user without a password; expected redis://user:password@host, \
    or redis://:password@host for a password alone";
const EMPTY_USER: Fault = "user and password before the @ are both empty; set them, or leave out \
    the @";
const SOCKET: Fault = "expected the absolute path of a socket, as in unix:///run/redis.sock";

/// What the `redis` crate refuses of what is left.
const REFUSED: Fault = "the host must not be a wildcard address, and what is escaped with % must \
    be UTF-8";

/// Checks a URL and returns it.
pub(super) fn parse(text: &str) -> Result<String, Fault> {
    if !is_plain(text) {
        return Err(NOT_PLAIN);
    }
    let (scheme, rest) = text.split_once(':').ok_or(FORMS)?;
    match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => check_tcp(text, rest.strip_prefix("//").ok_or(FORMS)?)?,
        "unix" | "redis+unix" | "valkey+unix" => check_unix(text)?,
        "rediss" | "valkeys" => return Err(TLS),
        _ => return Err(FORMS),
    }
    text.into_connection_info().map_err(|_| REFUSED)?;
    Ok(text.to_owned())
}

/// `rest` is what follows `redis://`.
fn check_tcp(text: &str, rest: &str) -> Result<(), Fault> {
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains('@') || authority.matches('@').count() > 1 {
        return Err(RESERVED);
    }
    if tail.contains('#') {
        return Err(FRAGMENT);
    }
    check_percent(text)?;
    let address = match authority.split_once('@') {
        Some((user, address)) => {
            check_user(user)?;
            address
        }
        None => authority,
    };
    check_address(address)?;
    let url = Url::parse(text).map_err(|_| HOST)?;
    check_host(&url)?;
    match url.path() {
        "" | "/" => {}
        path => database(path.strip_prefix('/').unwrap_or(path))?,
    }
    check_query(&url, &["protocol"], QUERY)
}

fn check_user(user: &str) -> Result<(), Fault> {
    match user.split_once(':') {
        Some(("", "")) => Err(EMPTY_USER),
        Some(_) => Ok(()),
        None if user.is_empty() => Err(EMPTY_USER),
        None => Err(NO_PASSWORD),
    }
}

/// Checks `host[:port]`, up to what is the URL parser's task.
fn check_address(address: &str) -> Result<(), Fault> {
    let after_ipv6 = address.rfind(']').map_or(0, |bracket| bracket + 1);
    // One colon for the port; more are an IPv6 address without brackets, or several servers.
    if address[after_ipv6..].matches(':').count() > 1 {
        return Err(HOST);
    }
    let (host, port) = match address[after_ipv6..].split_once(':') {
        Some((_, port)) => (&address[..address.len() - port.len() - 1], Some(port)),
        None => (address, None),
    };
    if host.is_empty() {
        return Err(NO_HOST);
    }
    match port {
        Some(port) if !matches!(port.parse(), Ok(1..=u16::MAX)) || port.starts_with('+') => {
            Err(PORT)
        }
        _ => Ok(()),
    }
}

/// The URL parser leaves the host of an unknown scheme as it is.
fn check_host(url: &Url) -> Result<(), Fault> {
    let named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match url.host() {
        None | Some(Host::Domain("")) => Err(NO_HOST),
        Some(Host::Domain(name)) if !name.chars().all(named) => Err(HOST),
        Some(_) => Ok(()),
    }
}

fn check_unix(text: &str) -> Result<(), Fault> {
    if text.contains('#') {
        return Err(FRAGMENT);
    }
    check_percent(text)?;
    let url = Url::parse(text).map_err(|_| SOCKET)?;
    let local = url.host_str().is_none_or(str::is_empty) && !url.cannot_be_a_base();
    if !local || url.path().len() < 2 || url.path().ends_with('/') {
        return Err(SOCKET);
    }
    // The query is read as a form, in which a + is a space.
    if url.query().is_some_and(|query| query.contains('+')) {
        return Err(UNIX_QUERY);
    }
    check_query(&url, &["db", "user", "pass", "protocol"], UNIX_QUERY)?;
    let mut options = url.query_pairs();
    match options.find(|(name, _)| name == "db") {
        Some((_, number)) => database(&number),
        None => Ok(()),
    }
}

/// Each option must be known, and occur once.
fn check_query(url: &Url, known: &[&str], fault: Fault) -> Result<(), Fault> {
    let names: Vec<_> = url.query_pairs().map(|(name, _)| name).collect();
    let repeated = (1..names.len()).any(|i| names[..i].contains(&names[i]));
    if repeated || names.iter().any(|name| !known.contains(&name.as_ref())) {
        return Err(fault);
    }
    let mut options = url.query_pairs();
    match options.find(|(name, _)| name == "protocol") {
        Some((_, protocol)) if !["2", "3", "resp2", "resp3"].contains(&protocol.as_ref()) => {
            Err(fault)
        }
        _ => Ok(()),
    }
}

fn database(number: &str) -> Result<(), Fault> {
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let in_range = number.parse::<i32>().is_ok(); // as in Redis
    if digits && in_range {
        Ok(())
    } else {
        Err(DATABASE)
    }
}

fn check_percent(text: &str) -> Result<(), Fault> {
    let mut escapes = text.split('%').skip(1).map(str::as_bytes);
    let whole = escapes.all(|escape| {
        let digits = escape.iter().take(2);
        escape.len() >= 2 && digits.into_iter().all(u8::is_ascii_hexdigit)
    });
    if whole { Ok(()) } else { Err(PERCENT) }
}

#[cfg(test)]
mod tests;
