//! The address of the database: `DB_URL`.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use thiserror::Error;

/// Why a text is not the address of a database, and what to write instead.
#[derive(Debug, Error)]
pub(super) enum DbUrlError {
    #[error("expected sqlite:PATH, the path of a file; {0}")]
    Value(String),
    #[error("its path cannot be made absolute: {0}")]
    Absolute(#[from] io::Error),
}

/// Characters that a shell, a URL or another system would have replaced. In a path they would
/// silently name another file.
const REFUSED: [(char, &str); 7] = [
    ('?', "it takes no parameters: leave out `?` and the rest"),
    ('#', "it takes no fragment: leave out `#` and the rest"),
    (
        '%',
        "percent-escapes are not decoded: write the character itself, and a path without `%`",
    ),
    (
        '$',
        "variables are not expanded here: write the path without `$`",
    ),
    ('\\', "write the path with `/` and without `\\`"),
    ('"', "leave out the quotation marks"),
    ('\'', "leave out the quotation marks"),
];

/// Why the address of a `PostgreSQL` server is refused.
#[cfg(not(feature = "postgres"))]
pub(super) const NO_POSTGRES: &str = "this program was built without PostgreSQL: build it with \
    --features postgres, or write sqlite:PATH";

/// Whether the text is meant as the address of a `PostgreSQL` server.
pub(super) fn is_of_postgres(text: &str) -> bool {
    let scheme = text.split_once(':').map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.to_ascii_lowercase().starts_with("postgres"))
}

/// What is accepted, by examples.
#[cfg(not(feature = "postgres"))]
const SUCH_AS: &str = "such as sqlite:/var/lib/storm/storm.db";
#[cfg(feature = "postgres")]
const SUCH_AS: &str =
    "such as sqlite:/var/lib/storm/storm.db, or postgres://USER@HOST/DATABASE for PostgreSQL";

/// Why an address with a login is refused.
pub(super) const NO_LOGIN: &str =
    "expected sqlite:PATH, the path of a file, without a host, a user and a password";

/// Whether the text may have a password, which no error shows.
pub(super) fn has_login(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'))
}

/// The absolute path in `sqlite:PATH` or `sqlite:///PATH`.
///
/// # Errors
/// The text is not such an address, or can only be a mistake: it would name a file other than the
/// one that is meant.
pub(super) fn parse(text: &str) -> Result<PathBuf, DbUrlError> {
    let path = path_of(text).map_err(DbUrlError::Value)?;
    // Absolute, because the check of a foreign file needs a file URL.
    Ok(std::path::absolute(path)?)
}

fn path_of(text: &str) -> Result<&str, String> {
    let Some(rest) = text.strip_prefix("sqlite:") else {
        return Err(instead_of_scheme(text));
    };
    if let Some((_, instead)) = REFUSED.iter().find(|(c, _)| rest.contains(*c)) {
        return Err((*instead).to_owned());
    }
    // Two slashes begin a host, and this database is a file of this host. Programs disagree whether
    // `sqlite://a/b` is a host or a relative path.
    let path = match rest.strip_prefix("//") {
        Some(after) if after.starts_with('/') => after,
        Some("") => "",
        Some(after) => {
            return Err(format!(
                "it has no host: write sqlite:{after} for a path from the working directory, or \
                 sqlite:/... for an absolute one"
            ));
        }
        None => rest,
    };
    if path.trim_start_matches('/').starts_with(":memory:") || path.starts_with(':') {
        return Err("a database in memory cannot be shared by the API and the workers".to_owned());
    }
    if path.trim_start_matches('/').starts_with('~') {
        return Err("`~` is not expanded: write the absolute path".to_owned());
    }
    if let Some(file) = path.strip_prefix("file:") {
        return Err(format!("write sqlite:{file} without `file:`"));
    }
    if path.starts_with(char::is_whitespace) {
        return Err("leave out the space after the colon".to_owned());
    }
    if !names_a_file(path) {
        return Err("it names a folder: add the name of a file, such as storm.db".to_owned());
    }
    Ok(path)
}

fn instead_of_scheme(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once(':') else {
        return match text {
            "" => SUCH_AS.to_owned(),
            path => format!("write sqlite:{path}"),
        };
    };
    match scheme.to_ascii_lowercase().as_str() {
        "sqlite" => format!("write the scheme in lower case: sqlite:{rest}"),
        "sqlite3" | "file" => format!("write sqlite:{rest}"),
        _ => SUCH_AS.to_owned(),
    }
}

/// Whether the last part of a path is a name. `Path` alone would ignore a final `/` or `/.`.
fn names_a_file(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    matches!(
        Path::new(last).components().next(),
        Some(Component::Normal(_))
    )
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_form_of_the_database_url_is_accepted() {
        for (url, path) in [
            ("sqlite:/var/lib/storm.db", "/var/lib/storm.db"),
            ("sqlite:///var/lib/storm.db", "/var/lib/storm.db"),
            ("sqlite:/var/my data/a@b,c=d.db", "/var/my data/a@b,c=d.db"),
        ] {
            assert_eq!(parse(url).unwrap().to_str(), Some(path));
        }
        for url in ["sqlite:data/storm.db", "sqlite:storm", "sqlite:./..data"] {
            assert!(parse(url).unwrap().is_absolute(), "{url}");
        }
    }

    #[test]
    fn a_database_url_that_would_name_another_file_is_refused_with_what_to_write_instead() {
        for (url, instead) in [
            ("sqlite:~/storm.db", "`~` is not expanded"),
            ("sqlite:~storm/storm.db", "`~` is not expanded"),
            ("sqlite://~/storm.db", "no host"),
            ("sqlite:///~/storm.db", "`~` is not expanded"),
            ("sqlite:$HOME/storm.db", "without `$`"),
            ("sqlite:${HOME}/storm.db", "without `$`"),
            ("sqlite:%h/storm.db", "without `%`"),
            (
                "sqlite:/var/my%20data/storm.db",
                "write the character itself",
            ),
            (
                "sqlite://localhost/var/storm.db",
                "write sqlite:localhost/var/storm.db",
            ),
            ("sqlite://db.example/storm.db", "no host"),
            ("sqlite://storm.db", "write sqlite:storm.db"),
            ("sqlite:file:/var/storm.db", "write sqlite:/var/storm.db"),
            ("sqlite:file:///var/storm.db?mode=rw", "no parameters"),
            ("sqlite:/var/storm.db#main", "no fragment"),
            ("sqlite:/var/storm.db?mode=ro", "no parameters"),
            ("sqlite:\"/var/storm.db\"", "quotation marks"),
            ("\"sqlite:/var/storm.db\"", "sqlite:/var/lib/storm/storm.db"),
            ("sqlite:C:\\storm.db", "with `/`"),
            ("sqlite: /var/storm.db", "space after the colon"),
            ("SQLite:/var/storm.db", "lower case: sqlite:/var/storm.db"),
            ("sqlite3:/var/storm.db", "write sqlite:/var/storm.db"),
            ("file:/var/storm.db", "write sqlite:/var/storm.db"),
            ("/var/storm.db", "write sqlite:/var/storm.db"),
            ("storm.db", "write sqlite:storm.db"),
            ("mysql://host/storm", "sqlite:/var/lib/storm/storm.db"),
            ("sqlite::memory:", "in memory"),
            ("sqlite:///:memory:", "in memory"),
            ("sqlite:", "names a folder"),
            ("sqlite://", "names a folder"),
            ("sqlite:///", "names a folder"),
            ("sqlite:/var/", "names a folder"),
            ("sqlite:/var/.", "names a folder"),
            ("sqlite:/var/..", "names a folder"),
            ("sqlite:.", "names a folder"),
            ("sqlite:..", "names a folder"),
            ("", "sqlite:/var/lib/storm/storm.db"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.starts_with("expected sqlite:PATH"), "{url}: {error}");
            assert!(error.contains(instead), "{url}: {error}");
        }
    }
}
