//! The causes of an error, and one line about them. The errors of a closed connection.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    iter::successors,
    sync::Arc,
};

/// One line about an error and its causes, of at most [`ErrorDetail::MAX_CHARS`] characters.
///
/// Control characters are replaced, because parts of the text are untrusted (a certificate's names,
/// for example) and could forge log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDetail(Box<str>);

impl ErrorDetail {
    /// The longest detail, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The message of `error`, followed by those of its causes that it does not already contain.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        for cause in causes(error).skip(1) {
            let more = cause.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
        }
        Self::new(&text)
    }

    pub(super) fn new(text: &str) -> Self {
        Self(one_line(text, Self::MAX_CHARS).into())
    }
}

/// The first `most` characters of `text`, with spaces for control characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(most).map(printable).collect()
}

impl fmt::Display for ErrorDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `error` and its causes, from the outside in. An `io::Error` may wrap its cause without naming it
/// as its source, and so does an `Arc` around one.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        cause(*error)
    })
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(shared) = error.downcast_ref::<Arc<io::Error>>() {
        return Some(&**shared);
    }
    match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(inside) => Some(inside),
        None => error.source(),
    }
}

/// Whether the peer has closed the connection, so that it takes no more bytes.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::{ErrorDetail, causes};

    #[test]
    fn a_cause_already_in_the_message_is_not_repeated() {
        let error = io::Error::other(io::Error::other("the cause"));
        assert_eq!(ErrorDetail::of(&error).to_string(), "the cause");
    }

    #[test]
    fn a_cause_inside_an_io_error_is_found() {
        let inner = io::Error::other(std::fmt::Error);
        let outer = io::Error::other(inner);
        let found = causes(&outer).filter(|cause| cause.is::<std::fmt::Error>());
        assert_eq!(found.count(), 1);
    }

    #[test]
    fn a_cause_inside_a_shared_io_error_is_found() {
        let shared = Arc::new(io::Error::other(std::fmt::Error));
        let outer = io::Error::new(shared.kind(), shared);
        let found = causes(&outer).filter(|cause| cause.is::<std::fmt::Error>());
        assert_eq!(found.count(), 1);
    }
}
