//! HTTPS: trusted issuers, and verification of the URL's host name.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, Stream, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use storm_shared::services::ssrf::Policy;
use storm_worker::delivery::{AttemptError, CallbackClient, Network, Stage, TlsFailure};
use tempfile::NamedTempFile;

use super::{
    HASTY, PATIENT, attempt, class, loopback_client,
    names::Names,
    scripted::{Receiver, read_request, wait_for_end, write},
};

/// Without a body, which as that of a collector would have to be one of OTLP.
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A receiver with a certificate for `receiver.test`, and a file with the CA that signed it.
pub(crate) fn receiver() -> (Receiver, NamedTempFile) {
    receiver_of("receiver.test")
}

/// Like `receiver`, for another `host`.
pub(crate) fn receiver_of(host: &'static str) -> (Receiver, NamedTempFile) {
    receiver_with(host, rustls::ALL_VERSIONS, false)
}

/// Like `receiver`, with these TLS versions; it may require a certificate of the client.
fn receiver_with(
    host: &'static str,
    versions: &[&'static SupportedProtocolVersion],
    asks_for_certificate: bool,
) -> (Receiver, NamedTempFile) {
    let (config, file) = server(host, versions, asks_for_certificate);
    let receiver = Receiver::start(move |_, mut stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut session, &mut stream);
        while read_request(&mut stream).is_some() {
            let served = stream.conn.server_name().map(str::to_owned);
            assert_eq!(served.as_deref(), Some(host));
            assert_eq!(stream.conn.alpn_protocol(), None);
            write(&mut stream, OK);
        }
    });
    (receiver, file)
}

/// A receiver with a certificate like that of `receiver`, which reads nothing once TLS is
/// established, until the sender is dropped.
pub(crate) fn receiver_that_reads_nothing() -> (Receiver, NamedTempFile, mpsc::Sender<()>) {
    let (config, file) = server("receiver.test", rustls::ALL_VERSIONS, false);
    let (until, over) = mpsc::channel();
    let over = Mutex::new(over);
    let receiver = Receiver::start(move |_, mut stream| {
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        session.complete_io(&mut stream).unwrap();
        let _ = over.lock().unwrap().recv();
    });
    (receiver, file, until)
}

/// The settings of a TLS server with a certificate for `host`, and a file with the CA that signed
/// it.
fn server(
    host: &str,
    versions: &[&'static SupportedProtocolVersion],
    asks_for_certificate: bool,
) -> (Arc<ServerConfig>, NamedTempFile) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut file = NamedTempFile::new().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    file.write_all(pem.as_bytes()).unwrap();

    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([host.to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let config = if asks_for_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        config.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        config.with_no_client_auth()
    };
    let config = config
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (Arc::new(config), file)
}

fn client(ca_file: Option<&Path>, timeout: Duration) -> CallbackClient {
    let policy = Policy::parse("127.0.0.1").unwrap();
    CallbackClient::new(
        policy,
        Network::with_resolver(Names::always(&["127.0.0.1"])),
        timeout,
        ca_file,
    )
    .unwrap()
}

pub(crate) fn https(receiver: &Receiver, host: &str) -> String {
    receiver.url_of(host).replace("http:", "https:")
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let (receiver, _) = receiver();
    let error = attempt(&client(None, PATIENT), &https(&receiver, "receiver.test"))
        .await
        .unwrap_err();
    assert!(matches!(error, AttemptError::Tls { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    assert!(!error.class().is_final());
}

#[tokio::test]
async fn an_authority_in_the_ca_file_is_trusted_and_the_connection_kept() {
    let (receiver, file) = receiver();
    let client = client(Some(file.path()), PATIENT);
    for _ in 0..3 {
        assert_eq!(
            class(&client, &https(&receiver, "receiver.test")).await,
            Ok(200)
        );
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (receiver, file) = receiver();
    let client = client(Some(file.path()), PATIENT);
    for host in ["other.test", "127.0.0.1", "sub.receiver.test"] {
        let error = attempt(&client, &https(&receiver, host)).await.unwrap_err();
        assert!(
            matches!(
                error,
                AttemptError::Tls {
                    kind: TlsFailure::OtherName,
                    ..
                }
            ),
            "{host}: {error:?}"
        );
        // The certificate's names can be internal hosts: operators see them, tenants do not.
        assert!(error.to_string().contains("receiver.test"), "{error}");
        assert_eq!(
            error.public_detail(),
            "TLS handshake failed: the certificate is for another name"
        );
    }
}

#[tokio::test]
async fn a_server_without_tls_fails_the_handshake() {
    let receiver = Receiver::start(|_, stream| {
        write(stream, "HTTP/1.1 200 OK\r\n\r\n");
    });
    assert_eq!(
        class(&client(None, PATIENT), &https(&receiver, "receiver.test")).await,
        Err("tls")
    );
}

#[tokio::test]
async fn a_hanging_handshake_times_out_at_the_tls_stage() {
    let receiver = Receiver::start(|_, stream| wait_for_end(stream));
    let url = format!("https://{}/", receiver.address);
    let error = attempt(&loopback_client(HASTY), &url).await.unwrap_err();
    assert!(
        matches!(error, AttemptError::Timeout { stage: Stage::Tls }),
        "{error}"
    );
}

#[tokio::test]
async fn an_alert_during_the_handshake_is_told_as_what_it_is() {
    for (code, name) in [
        (40, "HandshakeFailure"),
        (49, "AccessDenied"),
        (70, "ProtocolVersion"),
        (80, "InternalError"),
        (112, "UnrecognisedName"),
        (116, "CertificateRequired"),
        (222, "222"),
    ] {
        let receiver = Receiver::start(move |_, mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            // A fatal alert, in a record of TLS 1.2.
            let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, code]);
        });
        let answered = attempt(&client(None, PATIENT), &https(&receiver, "receiver.test")).await;
        let error = answered.unwrap_err();
        assert_eq!(error.class().as_str(), "tls");
        let told = format!("TLS handshake failed: the receiver sent the alert {name}");
        assert_eq!(error.public_detail(), told);
    }
}

#[tokio::test]
async fn a_receiver_that_requires_a_client_certificate_is_told_as_such() {
    for (version, phase) in [(&TLS13, "connection"), (&TLS12, "handshake")] {
        let (receiver, file) = receiver_with("receiver.test", &[version], true);
        let client = client(Some(file.path()), PATIENT);
        let answered = attempt(&client, &https(&receiver, "receiver.test")).await;
        let error = answered.unwrap_err();
        assert_eq!(error.class().as_str(), "tls", "{error}, {phase}");
        let told = format!("TLS {phase} failed: the receiver sent the alert CertificateRequired");
        assert_eq!(error.public_detail(), told);
    }
}

#[tokio::test]
async fn what_is_no_tls_is_told_as_what_it_is() {
    let plain = Receiver::start(|_, mut stream| {
        write(
            stream,
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        );
        let _ = stream.read(&mut [0; 4096]);
    });
    let closing = Receiver::start(|_, mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    for (receiver, told) in [
        (plain, "the receiver does not speak TLS on this port"),
        (closing, "the connection was closed"),
    ] {
        let answered = attempt(&client(None, PATIENT), &https(&receiver, "receiver.test")).await;
        let told = format!("TLS handshake failed: {told}");
        assert_eq!(answered.unwrap_err().public_detail(), told);
    }
}
