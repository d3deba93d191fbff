//! The metrics of a listener.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

use crate::services::scrape::PermitMetrics;

/// The connections of one listener. Clones share it.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    pub(super) open: PermitMetrics,
    pub(super) refused: Counter,
}

impl ConnectionMetrics {
    /// Registers them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.open.clone()));
        registry.register(
            "refused_connections",
            "Connections over HTTP_CONNECTIONS, which are answered 503",
            self.refused.clone(),
        );
    }
}

impl Default for ConnectionMetrics {
    fn default() -> Self {
        Self {
            open: PermitMetrics::new(
                ("connections", "Open connections."),
                (
                    "connections_limit",
                    "Connections that may be open: HTTP_CONNECTIONS.",
                ),
            ),
            refused: Counter::default(),
        }
    }
}
