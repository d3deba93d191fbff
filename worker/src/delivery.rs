//! One callback attempt: from a URL to a status line, never by a refused address.
//!
//! In the order in which an attempt meets them:
//!
//! * `client`: [`CallbackClient`], the one deadline, and what an answer means.
//! * `message`, `request`: what is sent, and the POST that carries it.
//! * `pool`: kept-alive connections, bounded in number and time.
//! * `dialer`, `connector`, `guard`, `tls`: a new connection. A name is looked up once, every
//!   address is judged, and only judged addresses are dialled.
//! * `network`, `resolver`: what all of that reaches the network by, for which a test may stand in.
//! * `connection`: one HTTP/1.1 connection and one exchange on it.
//! * `transport`: [`Transport`], the trait that tests replace, and the connection permit.
//! * `answer`, `retry_after`: what is read of an answer's body, and how long; when it asks to be called again.
//! * `error`: [`AttemptError`], what can go wrong, as classes.

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
pub use error::{AttemptError, Detail, Stage, TlsTrouble};
pub use message::Message;
pub use network::{Connect, Network, SystemSockets};
pub use resolver::{Resolve, SystemResolver};
pub use ssrf::{AddressSource, Denial, Findings, SsrfFilter, origin};
pub use tls::ClientError;
pub use transport::{ConnectionPermit, Transport};
