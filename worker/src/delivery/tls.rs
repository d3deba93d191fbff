//! The TLS configuration of the callback client: its trusted root certificates.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use thiserror::Error;

/// A file longer than this, in bytes, holds more than certificate authorities.
const MAX_LENGTH: u64 = 16 << 20;

/// Why the client cannot be built.
#[derive(Debug, Error)]
pub enum ClientError {
    /// `CALLBACK_CA_FILE` cannot be read or is not valid PEM.
    #[error("CALLBACK_CA_FILE={}: {error}; expected a file of PEM certificates", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The I/O or parse error.
        error: pem::Error,
    },
    /// `CALLBACK_CA_FILE` contains no certificate.
    #[error("CALLBACK_CA_FILE={}: contains no certificate; expected PEM certificates", .0.display())]
    Empty(PathBuf),
    /// A certificate in `CALLBACK_CA_FILE` cannot be a trusted root.
    #[error("CALLBACK_CA_FILE={}: {error}; expected certificates of authorities (CA)", .file.display())]
    BadRoot {
        /// The file.
        file: PathBuf,
        /// The reason that rustls gives.
        error: rustls::Error,
    },
    /// The built-in TLS configuration is invalid.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A configuration that trusts Mozilla's roots and those in `ca_file`. It has no client certificate
/// and uses the `ring` provider.
///
/// It offers no ALPN: without ALPN a server speaks HTTP/1.1, the only version supported here.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    if let Some(file) = ca_file {
        add_roots(file, &mut roots)?;
    }
    // The provider is named: a process-wide default could be another crate's choice.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Adds every certificate of `file`. One bad certificate rejects the file: a root that is silently
/// missing would show only later, as failed handshakes.
fn add_roots(file: &Path, roots: &mut RootCertStore) -> Result<(), ClientError> {
    let certificates = read_pem(file).map_err(|error| ClientError::Unreadable {
        file: file.to_owned(),
        error,
    })?;
    if certificates.is_empty() {
        return Err(ClientError::Empty(file.to_owned()));
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|error| ClientError::BadRoot {
                file: file.to_owned(),
                error,
            })?;
    }
    Ok(())
}

fn read_pem(file: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let metadata = fs::metadata(file).map_err(pem::Error::Io)?;
    // The end of a pipe or of a device may never come.
    if !metadata.is_file() {
        return Err(pem::Error::Io(io::Error::other("it is not a file")));
    }
    if metadata.len() > MAX_LENGTH {
        return Err(pem::Error::Io(io::Error::other("it is over 16 MiB")));
    }
    CertificateDer::pem_file_iter(file)?.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::config;

    #[test]
    fn an_unusable_ca_file_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        for content in [
            None,
            Some(""),
            Some("no PEM at all"),
            Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ] {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let error = config(Some(&file)).unwrap_err().to_string();
            assert!(
                error.contains(&file.display().to_string()),
                "{content:?}: {error}"
            );
        }
        for endless in ["/", "/dev/zero"] {
            let error = config(Some(Path::new(endless))).unwrap_err().to_string();
            assert!(error.contains("it is not a file"), "{error}");
        }
        assert!(config(None).is_ok());
    }
}
