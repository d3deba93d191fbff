//! A password that is not in the URL: `PGPASSWORD`, or a line of the file `PGPASSFILE`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{Fault, PostgresHost};

/// A longer file, in bytes, has no passwords.
const MAX_LENGTH: u64 = 1 << 20;

/// The variables of the environment that every client of `PostgreSQL` knows.
#[derive(Clone, Default)]
pub(in crate::config) struct Variables {
    /// `PGPASSWORD`.
    pub(in crate::config) password: Option<String>,
    /// `PGPASSFILE`.
    pub(in crate::config) file: Option<String>,
}

impl Variables {
    /// The password of the role `user` for a database, the same on all `hosts`; `None`: the
    /// variables have none.
    pub(super) fn password(
        &self,
        hosts: &[PostgresHost],
        database: &str,
        user: &str,
    ) -> Result<Option<String>, Fault> {
        if let Some(password) = self.password.as_ref().filter(|it| !it.is_empty()) {
            return Ok(Some(password.clone()));
        }
        let Some(path) = self.file.as_ref().filter(|it| !it.is_empty()) else {
            return Ok(None);
        };
        let text =
            read(Path::new(path)).map_err(|problem| format!("PGPASSFILE={path}: {problem}"))?;
        let mut found = Vec::new();
        for host in hosts {
            let (host, port) = match host {
                PostgresHost::Tcp(host, port) => (host.as_str(), *port),
                // libpq's name for any socket.
                PostgresHost::Unix(_, port) => ("localhost", *port),
            };
            let wanted = [host, &port.to_string(), database, user];
            found.push(text.lines().find_map(|line| password_in(line, wanted)));
        }
        // One password is sent to whichever host answers.
        found.dedup();
        match found.as_slice() {
            [password] => Ok(password.clone()),
            _ => Err(format!(
                "PGPASSFILE={path}: it has different passwords for the hosts; one role has one \
                 password on a primary and its standbys"
            )),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let file = fs::metadata(path).map_err(|error| error.to_string())?;
    if !file.is_file() || file.len() > MAX_LENGTH {
        return Err("expected a file of lines host:port:database:user:password".to_owned());
    }
    if file.permissions().mode() & 0o077 != 0 {
        return Err("other users can read it: chmod 600".to_owned());
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The password in a line, if the line is for `wanted`: host, port, database and user. `*` stands
/// for any of them.
fn password_in(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![(String::new(), false)];
    let mut escaped = false;
    for character in line.chars() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            // The password is the rest of the line.
            ':' if !escaped && fields.len() < 5 => fields.push((String::new(), false)),
            character => {
                if let Some((field, has_escape)) = fields.last_mut() {
                    field.push(character);
                    *has_escape |= escaped;
                }
            }
        }
        escaped = false;
    }
    let password = fields.get(4)?.0.clone();
    let is_for = |((field, has_escape), wanted): (&(String, bool), &str)| {
        field == wanted || (field == "*" && !has_escape)
    };
    fields.iter().zip(wanted).all(is_for).then_some(password)
}
