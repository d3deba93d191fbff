//! One callback attempt, from URL to status line, with protection against SSRF.
//!
//! The modules, in the order in which an attempt uses them:
//!
//! * `client`: [`CallbackClient`], the deadline of an attempt, and the meaning of its response.
//! * `exchange`: the exchange of one attempt, over a pooled connection or a new one.
//! * `message`, `request`: the callback, and the POST that carries it.
//! * `pool`: the connection pool (keep-alive), bounded in number and idle time.
//! * `dialer`, `connector`, `ssrf`, `race`, `tls`: a new connection. To prevent DNS rebinding, a
//!   name is resolved once, every address is checked, and only the checked addresses are dialled.
//! * `network`, `resolver`: access to the network, replaceable in tests.
//! * `connection`: one HTTP/1.1 connection and one exchange on it. `tap`: what passed through its
//!   socket, which decides the attempt where the HTTP parser gives up.
//! * `socket`, `socket_limit`: a TCP connection, and the limit on those that are open.
//! * `transport`: [`Transport`], the trait that tests replace. `permits`: the limit on connections
//!   to an origin, shared fairly between tenants.
//! * `answer`, `retry_after`: the bounded read of a response body, and the `Retry-After` header.
//! * `error`, `tls_failure`, `detail`: [`AttemptError`], the classes of failure. `shortage`: what
//!   the worker itself can lack.
//!
//! HTTP handlers use the connections, too; their URLs are the operator's, so all addresses are
//! allowed to them.

pub(crate) mod answer;
mod client;
pub(crate) mod connection;
mod connector;
pub(crate) mod detail;
pub(crate) mod dialer;
mod error;
mod exchange;
mod message;
mod network;
mod permits;
pub(crate) mod pool;
mod race;
pub(crate) mod request;
mod resolver;
pub(crate) mod retry_after;
mod shortage;
mod socket;
mod socket_limit;
mod ssrf;
mod tap;
pub(crate) mod tls;
mod tls_failure;
mod transport;

pub use client::CallbackClient;
pub use detail::ErrorDetail;
pub use error::{AttemptError, Interruption, Stage};
pub use message::Message;
pub use network::{Connect, Network, SystemSockets};
pub use permits::ConnectionPermit;
pub(crate) use permits::{Permits, TenantPermits};
pub use resolver::{Resolve, SystemResolver};
pub use shortage::Shortage;
pub use socket_limit::SocketLimit;
pub use ssrf::{AddressSource, Denial, Resolution, SsrfFilter, origin};
pub use tls::ClientError;
pub use tls_failure::TlsFailure;
pub use transport::{Resends, Transport, Unrecorded};
