//! `DB_URL` of a `PostgreSQL` server: what it may contain, and what to change where it can only be
//! a mistake.
//!
//! As with `REDIS_URL`, no message quotes the URL: any part of it can be a piece of a password.

mod password;

use std::{fmt, net::IpAddr, path::PathBuf};

use url::Url;

pub(super) use self::password::Variables;

/// What is wrong, and what to change.
type Fault = String;

const FORMS: &str = "expected postgres://[user[:password]@]host[:port][,host[:port]]/database";
const DEFAULT_PORT: u16 = 5432;
const OPTIONS: &str = "the options are sslmode, sslrootcert and host (the directory of a socket)";

/// The address of a server, and how to log in.
#[derive(Clone)]
pub struct PostgresSettings {
    /// The hosts, in the order in which they are tried: a primary and its standbys.
    pub hosts: Vec<PostgresHost>,
    /// The role.
    pub user: String,
    /// Its password; `None` if the server asks for none.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// How the connection is protected.
    pub tls: PostgresTls,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresHost {
    /// At a port of a host: a DNS name or an address.
    Tcp(String, u16),
    /// At a socket in this directory, whose name has the port.
    Unix(PathBuf, u16),
}

/// The protection of connections to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresTls {
    /// None.
    Disabled,
    /// Encrypted; whoever answers is taken for the server.
    Unverified,
    /// Encrypted, to a server whose certificate names its host and is signed by one of these
    /// authorities: those in the file, or Mozilla's.
    Verified(Option<PathBuf>),
}

impl PostgresHost {
    /// Whether nobody between can read what is sent.
    fn is_local(&self) -> bool {
        match self {
            Self::Unix(..) => true,
            Self::Tcp(host, _) => {
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            }
        }
    }
}

impl fmt::Display for PostgresHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(directory, port) => write!(f, "{}:{port}", directory.display()),
        }
    }
}

// Without the password.
impl fmt::Display for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        write!(
            f,
            "postgres://{}@{}/{}",
            self.user,
            hosts.join(","),
            self.database
        )
    }
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .finish_non_exhaustive() // the password
    }
}

/// A URL of a server that was accepted, as it was written, but without its password.
pub fn without_password(url: &str) -> String {
    let rest = || {
        let (scheme, rest) = url.split_once("://")?;
        let (login, rest) = rest.split_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{scheme}://{user}@{rest}"))
    };
    rest().unwrap_or_else(|| url.to_owned())
}

/// The parts of a URL as they were written.
struct Parts<'a> {
    user: Option<&'a str>,
    hosts: &'a str,
    database: &'a str,
    query: Option<&'a str>,
}

/// Parses a URL. The password may come from the `variables` of the environment instead.
pub(super) fn parse(text: &str, variables: &Variables) -> Result<PostgresSettings, Fault> {
    let parts = split(text)?;
    let options = Options::parse(parts.query)?;
    let (user, password) = match parts.user {
        None => (None, None),
        Some(login) => match login.split_once(':') {
            None => (Some(decoded(login)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(decoded(password)?)),
        },
    };
    let user = user
        .filter(|user| !user.is_empty())
        .ok_or("it has no user: write postgres://USER@host/database")?;
    let password = password.filter(|password| !password.is_empty());
    let database = decoded(parts.database)?;
    if database.is_empty() || database.contains('/') {
        return Err(format!("it names no database; {FORMS}"));
    }
    let hosts = hosts(parts.hosts, options.socket)?;
    let tls = tls(&hosts, options.sslmode.as_deref(), options.sslrootcert)?;
    let password = match password {
        Some(password) => Some(password),
        None => variables.password(&hosts, &database, &user)?,
    };
    Ok(PostgresSettings {
        hosts,
        user,
        password,
        database,
        tls,
    })
}

fn split(text: &str) -> Result<Parts<'_>, Fault> {
    let scheme = text.split(':').next().unwrap_or_default();
    if scheme != scheme.to_ascii_lowercase() {
        return Err(format!("write the scheme in lower case; {FORMS}"));
    }
    let rest = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
        .ok_or(FORMS)?;
    if text.contains(char::is_whitespace) || text.contains(char::is_control) {
        return Err("it has a space or a line break; write a space as %20".to_owned());
    }
    if rest.contains('#') {
        return Err("it has a #; in a password write # as %23".to_owned());
    }
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains('@') || query.is_some_and(|query| query.contains('@')) {
        return Err(
            "a user or password has one of / ? @ unescaped; write / as %2F, ? as %3F and @ as %40"
                .to_owned(),
        );
    }
    let (user, hosts) = match authority.split_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    if hosts.contains('@') {
        return Err("a user or password has an @ unescaped; write it as %40".to_owned());
    }
    Ok(Parts {
        user,
        hosts,
        database,
        query,
    })
}

/// The options after the `?`.
#[derive(Default)]
struct Options {
    sslmode: Option<String>,
    sslrootcert: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Options {
    fn parse(query: Option<&str>) -> Result<Self, Fault> {
        let mut options = Self::default();
        for option in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = decoded(value)?;
            let is_path = value.starts_with('/');
            match name {
                "sslmode" if options.sslmode.is_none() => options.sslmode = Some(value),
                "sslrootcert" if options.sslrootcert.is_none() && is_path => {
                    options.sslrootcert = Some(value.into());
                }
                "host" if options.socket.is_none() && is_path => {
                    options.socket = Some(value.into());
                }
                "sslrootcert" | "host" if !is_path => {
                    return Err(format!("{name} must be an absolute path"));
                }
                "sslmode" | "sslrootcert" | "host" => {
                    return Err(format!("it has the option {name} twice"));
                }
                "password" | "user" | "dbname" | "port" => {
                    return Err(format!(
                        "{name} is no option here: {FORMS}; a password may also come from \
                         PGPASSWORD or PGPASSFILE"
                    ));
                }
                _ => return Err(format!("it has an unknown option; {OPTIONS}")),
            }
        }
        Ok(options)
    }
}

fn hosts(text: &str, socket: Option<PathBuf>) -> Result<Vec<PostgresHost>, Fault> {
    if let Some(directory) = socket {
        let port = match text {
            "" => DEFAULT_PORT,
            text => match text.strip_prefix(':') {
                Some(port) => self::port(port)?,
                None => {
                    return Err("it has a host and a socket: leave out one of them".to_owned());
                }
            },
        };
        return Ok(vec![PostgresHost::Unix(directory, port)]);
    }
    text.split(',').map(host).collect()
}

fn host(text: &str) -> Result<PostgresHost, Fault> {
    const HOST: &str = "each host must be a DNS name in ASCII, an IPv4 address, or an IPv6 address \
                        in brackets, and the port a number from 1 to 65535";
    if text.is_empty() {
        return Err(format!("it has no host, or an empty one; {FORMS}"));
    }
    // The rules for hosts are those of URLs.
    let url = Url::parse(&format!("http://{text}/")).map_err(|_| HOST)?;
    let name = url.host_str().ok_or(HOST)?;
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let given = text
        .rsplit_once(':')
        .filter(|(_, port)| !port.contains(']'));
    let (written, port) = match given {
        Some((written, port)) => (written, self::port(port)?),
        None => (text, DEFAULT_PORT),
    };
    if !written.eq_ignore_ascii_case(name) {
        return Err(HOST.to_owned());
    }
    Ok(PostgresHost::Tcp(bare.to_owned(), port))
}

fn port(text: &str) -> Result<u16, Fault> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "the port must be a number from 1 to 65535".to_owned())
}

fn tls(
    hosts: &[PostgresHost],
    mode: Option<&str>,
    roots: Option<PathBuf>,
) -> Result<PostgresTls, Fault> {
    let tls = match mode {
        // TLS on loopback protects nothing, and no certificate names localhost.
        None if hosts.iter().all(PostgresHost::is_local) && roots.is_none() => {
            PostgresTls::Disabled
        }
        None | Some("verify-full") => return Ok(PostgresTls::Verified(roots)),
        Some("require") => PostgresTls::Unverified,
        Some("disable") => PostgresTls::Disabled,
        Some("prefer" | "allow") => {
            return Err(
                "sslmode=prefer and allow fall back to plain text, unseen: write \
                 sslmode=verify-full, or sslmode=disable on a network that you trust"
                    .to_owned(),
            );
        }
        Some("verify-ca") => {
            return Err(
                "sslmode=verify-ca takes any server of the authority for this one: write \
                 sslmode=verify-full"
                    .to_owned(),
            );
        }
        Some(_) => return Err("sslmode must be verify-full, require or disable".to_owned()),
    };
    if roots.is_some() {
        return Err("sslrootcert is used by sslmode=verify-full only".to_owned());
    }
    Ok(tls)
}

/// Undoes percent-escapes.
fn decoded(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(
                "it has a % without two hexadecimal digits; in a password write % as %25"
                    .to_owned(),
            );
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    let text = String::from_utf8(bytes);
    text.ok()
        .filter(|text| !text.contains(char::is_control))
        .ok_or_else(|| "what is escaped with % must be UTF-8 without control characters".to_owned())
}

#[cfg(test)]
mod tests;
