//! A collector behind TLS.

use super::joined::{api, exporting};
use crate::{delivery::tls, table::Table};

#[tokio::test]
async fn spans_go_over_tls_to_a_collector_whose_authority_is_trusted_and_to_no_other() {
    let (collector, authority) = tls::receiver_of("localhost");
    let url = tls::https(&collector, "localhost");
    let table = Table::new().await;
    let trusting = (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        authority.path().to_str().unwrap(),
    );
    let not_trusting = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "");
    for (certificate, counted) in [
        (trusting, "storm_api_exported_spans_total 1"),
        (not_trusting, "storm_api_dropped_spans_total 1"),
    ] {
        let settings = [exporting(&url), vec![certificate]].concat();
        let api = api(&table, &settings).await;
        let refused = api
            .send("POST", "/async", r#"{"records": 0}"#)
            .await
            .unwrap();
        assert!(refused.starts_with("HTTP/1.1 422"), "{refused}");
        api.until_shown("/metrics", counted).await;
        if certificate == not_trusting {
            api.logs("invalid peer certificate").await;
        }
    }
}
