//! The kinds of TLS failure, as a tenant may see them.

use std::{
    borrow::Cow,
    error::Error,
    io::{self, ErrorKind},
};

use rustls::AlertDescription;

use super::detail::{causes, is_closed};

/// The kind of TLS failure, as shown to the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// The certificate has expired or is not valid yet.
    Expired,
    /// The certificate is for other names.
    OtherName,
    /// The certificate's issuer is not trusted.
    UnknownIssuer,
    /// The certificate is invalid for another reason.
    Certificate,
    /// The receiver has sent an alert, for example because it requires a client certificate.
    Alert(AlertDescription),
    /// The receiver answered with something other than TLS.
    NotTls,
    /// The receiver and the worker have no TLS version or cipher suite in common.
    Incompatible,
    /// The receiver closed the connection.
    Closed,
    /// Any other failure.
    Protocol,
}

impl TlsFailure {
    /// Classifies the first rustls error among `error` and its causes, or the failure of the
    /// connection below it.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        match rustls_error(error) {
            Some(error) => Self::of_rustls(error),
            None if causes(error).any(has_ended) => Self::Closed,
            None => Self::Protocol,
        }
    }

    /// The failure of TLS behind the failure of an exchange, if there is one.
    pub(super) fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        rustls_error(error).map(Self::of_rustls)
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        use rustls::{CertificateError as Wrong, InvalidMessage};
        match error {
            rustls::Error::InvalidCertificate(wrong) => match wrong {
                Wrong::Expired
                | Wrong::ExpiredContext { .. }
                | Wrong::NotValidYet
                | Wrong::NotValidYetContext { .. } => Self::Expired,
                Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => Self::OtherName,
                Wrong::UnknownIssuer => Self::UnknownIssuer,
                _ => Self::Certificate,
            },
            rustls::Error::AlertReceived(alert) => Self::Alert(*alert),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            rustls::Error::PeerIncompatible(_) => Self::Incompatible,
            _ => Self::Protocol,
        }
    }

    /// In words. Of an alert only its name is shown, which is one of a fixed list.
    pub(super) fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Expired => "the certificate has expired or is not valid yet",
            Self::OtherName => "the certificate is for another name",
            Self::UnknownIssuer => "the certificate's issuer is not trusted",
            Self::Certificate => "the certificate is invalid",
            Self::Alert(alert) => {
                return Cow::Owned(match alert.as_str() {
                    Some(name) => format!("the receiver sent the alert {name}"),
                    None => format!("the receiver sent the alert {}", u8::from(alert)),
                });
            }
            Self::NotTls => "the receiver does not speak TLS on this port",
            Self::Incompatible => "no TLS version or cipher suite in common",
            Self::Closed => "the connection was closed",
            Self::Protocol => "protocol error",
        })
    }
}

fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(<dyn Error>::downcast_ref)
}

/// Whether the peer has closed the connection, in order or not.
fn has_ended(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(|error: &io::Error| {
        error.kind() == ErrorKind::UnexpectedEof || is_closed(error)
    })
}
