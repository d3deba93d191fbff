//! SIGHUP rereads signing secrets and the token of the metrics while a worker runs.

use std::{fs, path::Path};

use storm_shared::services::{access::Token, signature::SIGNATURE};

use crate::{process::WorkerProcess, receiver::Receiver, rows::Rows as _, table::Table};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=";

/// As an editor does it: the file is never half written.
pub(crate) fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// Accepts a job, and returns which of the two secrets sign its callback.
async fn signed_by(table: &Table, receiver: &mut Receiver) -> [bool; 2] {
    table.accept(1, Some(receiver.url())).await;
    let callback = receiver.next_whole().await;
    let signatures = callback.headers()[SIGNATURE].to_str().unwrap();
    let secrets = [OLD, NEW].map(|secret| {
        let webhook = standardwebhooks::Webhook::new(secret).unwrap();
        webhook.verify(callback.body(), callback.headers()).is_ok()
    });
    let count = secrets.iter().filter(|signs| **signs).count();
    assert_eq!(signatures.split(' ').count(), count);
    secrets
}

#[tokio::test]
async fn signing_secrets_are_rotated_without_a_restart_and_a_bad_file_changes_nothing() {
    let table = Table::new().await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let file = table.folder.path().join("storm.toml");
    let secrets = |text: &str| write(&file, &format!("callback_signing_secrets = '{text}'"));
    secrets(OLD);
    let worker = table.worker(&[("STORM_CONFIG", file.to_str().unwrap())]);
    assert_eq!(signed_by(&table, &mut receiver).await, [true, false]);

    secrets(&format!("{NEW} {OLD}"));
    worker.signal("HUP");
    worker.logs(r#""changed":"CALLBACK_SIGNING_SECRETS""#).await;
    assert_eq!(signed_by(&table, &mut receiver).await, [true, true]);

    secrets(&format!("{NEW}x"));
    worker.signal("HUP");
    worker.logs("so nothing has changed").await;
    assert_eq!(signed_by(&table, &mut receiver).await, [true, true]);
    secrets("");
    worker.signal("HUP");
    worker.logs("only a restart turns it off").await;
    assert_eq!(signed_by(&table, &mut receiver).await, [true, true]);

    secrets(NEW);
    worker.signal("HUP");
    rereads(&worker, 2).await;
    assert_eq!(signed_by(&table, &mut receiver).await, [false, true]);

    let log = worker.log();
    for secret in [OLD, NEW] {
        assert!(!log.contains(secret.trim_start_matches("whsec_")), "{log}");
    }
    worker.signal("TERM");
    assert!(worker.ended().await.success());
}

/// Waits until `count` files were accepted with a change.
pub(crate) async fn rereads(worker: &WorkerProcess, count: usize) {
    while worker.log().matches("the changes are in use").count() < count {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_metrics_token_is_reread() {
    let table = Table::new().await;
    let file = table.folder.path().join("storm.toml");
    write(&file, "log = 'info'");
    let worker = table.worker(&[("STORM_CONFIG", file.to_str().unwrap())]);
    assert!(
        worker
            .get("/metrics")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    let hash = Token::generate().unwrap().hash().to_hex();
    let metrics_token = format!("metrics_token = '{hash}'");
    // The API's settings are none of a worker's.
    write(&file, &format!("{metrics_token}\nrate_limit = '5/s'"));
    worker.signal("HUP");
    worker.logs(r#""changed":"METRICS_TOKEN""#).await;
    assert!(
        worker
            .get("/metrics")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 401")
    );
}
