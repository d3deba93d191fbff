//! How a storm detects the ends of its jobs: by callbacks, or by polling.

use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use storm_shared::models::{Mode, RequestId};
use tokio::time::Instant;
use tokio_util::{sync::DropGuard, task::AbortOnDropHandle};

use super::{poller::Poller, test_job};
use crate::{
    cli::StormOptions, client::Api, ledger::Ledger, listen::Listener, receiver,
    signatures::Signatures,
};

/// How the ends of jobs were detected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum Completion {
    /// By callbacks.
    Callback,
    /// By polling. The jobs had no callback URL.
    Polling {
        /// The reason.
        why: String,
    },
}

/// The callback receiver or the poller of a run. It stops when dropped.
#[derive(Debug)]
pub(super) struct CompletionTracker {
    pub(super) ledger: Ledger,
    /// The callback URL of the jobs.
    pub(super) callback_url: Option<String>,
    tracking: Tracking,
}

#[derive(Debug)]
enum Tracking {
    /// `/sync` creates no jobs.
    None,
    Callbacks {
        _until_dropped: DropGuard,
    },
    Polling {
        poller: Arc<Poller>,
        why: String,
        _until_dropped: AbortOnDropHandle<()>,
    },
}

impl CompletionTracker {
    /// Starts the receiver and tests it with one job. Polls instead if `--poll` is set or the test
    /// callback does not arrive.
    pub(super) async fn prepare(
        options: &StormOptions,
        api: &Api,
        signatures: Signatures,
    ) -> Result<Self> {
        // The storm replaces this workload before its first request.
        let ledger = Ledger::new(Arc::new(test_job::workload(None)), signatures);
        if options.mode == Mode::Sync {
            return Ok(Self {
                ledger,
                callback_url: None,
                tracking: Tracking::None,
            });
        }
        if options.poll {
            return Ok(Self::polling(api, ledger, "requested by --poll".to_owned()));
        }
        let listener = Listener::bind(options.callbacks.listen)?;
        let (url, path) = options.callbacks.url(&listener);
        // The receiver must run before the test job: a callback can arrive before its 202.
        let max = match options.handler {
            None => receiver::MAX_CALLBACK,
            Some(_) => receiver::MAX_HANDLER_CALLBACK,
        };
        let receiving = receiver::receive(listener, &path, &ledger, max);
        match test_job::try_callback(api, &ledger, &url).await? {
            Ok(()) => {
                let tracking = Tracking::Callbacks {
                    _until_dropped: receiving,
                };
                Ok(Self {
                    ledger,
                    callback_url: Some(url),
                    tracking,
                })
            }
            // This drops the receiver: the jobs of the storm have no callback URL.
            Err(why) => Ok(Self::polling(api, ledger, why)),
        }
    }

    fn polling(api: &Api, ledger: Ledger, why: String) -> Self {
        let poller = Arc::new(Poller::new(api.clone(), ledger.clone()));
        let polling = tokio::spawn(Arc::clone(&poller).run());
        let tracking = Tracking::Polling {
            poller,
            why,
            _until_dropped: AbortOnDropHandle::new(polling),
        };
        Self {
            ledger,
            callback_url: None,
            tracking,
        }
    }

    /// Tracks an accepted job. Only polling has to know each job; callbacks arrive by themselves.
    pub(super) fn watch(&self, id: RequestId, due: Instant) {
        if let Tracking::Polling { poller, .. } = &self.tracking {
            poller.watch(id, due + self.ledger.ideal());
        }
    }

    pub(super) fn completion(&self) -> Option<Completion> {
        match &self.tracking {
            Tracking::None => None,
            Tracking::Callbacks { .. } => Some(Completion::Callback),
            Tracking::Polling { why, .. } => Some(Completion::Polling { why: why.clone() }),
        }
    }
}
