//! TLS to the server: who is trusted, and that nothing goes there in plain text.

use std::{fs, path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use storm_shared::services::store::{Store, StoreError};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    jobs::accept,
    postgres_server::{PostgresServer, settings},
};

/// The store's connections, and those of them that are encrypted.
const CONNECTIONS: &str = "SELECT count(*) * 1000 + count(*) FILTER (WHERE ssl)
    FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
    WHERE application_name = 'request-storm-handler'";

/// An authority, and the file with its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new([]).unwrap();
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.distinguished_name.push(DnType::CommonName, name);
        let folder = TempDir::new().unwrap();
        let pem = own.self_signed(&key).unwrap().pem();
        fs::write(folder.path().join("ca.pem"), pem).unwrap();
        Self {
            issuer: Issuer::new(own, key),
            folder,
        }
    }

    fn file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// Starts the server anew with a certificate for `host`.
    fn certify(&self, server: &PostgresServer, host: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        server.encrypt(&certificate.pem(), &key.serialize_pem());
    }
}

/// A store at `server`, with these options of its address.
async fn open(server: &PostgresServer, options: &str) -> Result<Store, StoreError> {
    Store::open(&settings(&format!("{}?{options}", server.url()))).await
}

/// Asks until the error has these words. Meanwhile there must be no answer.
async fn refuses(store: &Store, words: &str) {
    loop {
        let error = store.check().await.expect_err(words).to_string();
        if error.contains(words) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn assert_encrypted(server: &PostgresServer) {
    let connections = server.number(CONNECTIONS).await;
    assert!(connections > 0);
    assert_eq!(connections / 1000, connections % 1000, "{connections}");
}

#[tokio::test]
async fn the_servers_certificate_must_be_of_the_authority_and_for_the_host() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let server = PostgresServer::start(&[]);
    ours.certify(&server, "127.0.0.1");
    let verified = format!("sslmode=verify-full&sslrootcert={}", ours.file());
    let store = open(&server, &verified).await.unwrap();
    accept(&store).await;
    assert_encrypted(&server).await;

    others.certify(&server, "127.0.0.1");
    refuses(&store, "UnknownIssuer").await;
    ours.certify(&server, "db.example");
    refuses(&store, "not valid for name").await;
    server.stop("fast");
    server.configure(&["ssl = off"]);
    server.begin();
    refuses(&store, "does not support TLS").await;

    ours.certify(&server, "127.0.0.1");
    while store.check().await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    assert_encrypted(&server).await;
}

#[tokio::test]
async fn require_takes_any_certificate_and_no_plain_text() {
    let server = PostgresServer::start(&[]);
    Authority::new("any").certify(&server, "db.example");
    let store = open(&server, "sslmode=require").await.unwrap();
    accept(&store).await;
    assert_encrypted(&server).await;

    server.stop("fast");
    server.configure(&["ssl = off"]);
    server.begin();
    refuses(&store, "does not support TLS").await;
}

#[tokio::test]
async fn a_file_that_holds_no_authority_is_refused_in_one_line() {
    let server = PostgresServer::start(&[]);
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let broken = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n";
    for file in [
        file("empty.pem", ""),
        file("text.pem", "no certificate\n"),
        file("broken.pem", broken),
        folder.path().join("missing.pem"),
    ] {
        assert_refused(&server, &file).await;
    }
}

async fn assert_refused(server: &PostgresServer, file: &Path) {
    let options = format!("sslmode=verify-full&sslrootcert={}", file.display());
    let refused = open(server, &options).await.err().unwrap();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Unusable(_)), "{refused:?}");
    let said = format!("sslrootcert={}: ", file.display());
    assert!(text.contains(&said) && !text.contains('\n'), "{text}");
}
