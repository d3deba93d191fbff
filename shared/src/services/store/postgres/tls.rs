//! TLS to the server: whose certificates are trusted.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::services::store::StoreError;

/// Trusts the authorities in the file `roots` alone; without one, Mozilla's.
pub(super) fn verified(roots: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let store = match roots {
        Some(file) => read(file)?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error.to_string()))?;
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Takes whoever answers for the server, as `sslmode=require` says.
pub(super) fn unverified() -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error.to_string()))?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth())
}

/// One bad certificate rejects the file: an authority that is silently missing would show only
/// later.
fn read(file: &Path) -> Result<RootCertStore, StoreError> {
    let refused = |problem: &str| {
        unusable(&format!(
            "sslrootcert={}: {problem}; expected a file of PEM certificates of authorities",
            file.display()
        ))
    };
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| refused(&error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refused(&error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| refused(&error.to_string()))?;
    }
    if store.is_empty() {
        return Err(refused("it has no certificate"));
    }
    Ok(store)
}

fn unusable(problem: &str) -> StoreError {
    StoreError::Unusable(format!("TLS to the database: {problem}"))
}

/// Accepts every certificate, and checks that the server has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
