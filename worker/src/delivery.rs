//! One callback attempt, from URL to status line, with protection against SSRF.
//!
//! The modules, in the order in which an attempt uses them:
//!
//! * `client`: [`CallbackClient`], the deadline of an attempt, and the meaning of its response.
//! * `message`, `request`: the callback, and the POST that carries it.
//! * `pool`: the connection pool (keep-alive), bounded in number and idle time.
//! * `dialer`, `connector`, `ssrf`, `tls`: a new connection. To prevent DNS rebinding, a name is
//!   resolved once, every address is checked, and only the checked addresses are dialled.
//! * `network`, `resolver`: access to the network, replaceable in tests.
//! * `connection`: one HTTP/1.1 connection and one exchange on it.
//! * `transport`: [`Transport`], the trait that tests replace, and the connection permit.
//! * `answer`, `retry_after`: the bounded read of a response body, and the `Retry-After` header.
//! * `error`: [`AttemptError`], the classes of failure.

mod answer;
mod client;
mod connection;
mod connector;
mod dialer;
mod error;
mod message;
mod network;
mod pool;
mod request;
mod resolver;
mod retry_after;
mod ssrf;
mod tls;
mod transport;

pub use client::CallbackClient;
pub use error::{AttemptError, ErrorDetail, Stage, TlsFailure};
pub use message::Message;
pub use network::{Connect, Network, SystemSockets};
pub use resolver::{Resolve, SystemResolver};
pub use ssrf::{AddressSource, Denial, Resolution, SsrfFilter, origin};
pub use tls::ClientError;
pub use transport::{ConnectionPermit, Transport};
