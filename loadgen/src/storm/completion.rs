//! How a storm hears that its jobs are over.

use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use storm_shared::models::{Mode, RequestId};
use tokio::time::Instant;
use tokio_util::{sync::DropGuard, task::AbortOnDropHandle};

use super::{poller::Poller, probe};
use crate::{
    cli::StormOptions, client::Api, ledger::Ledger, listen::Listener, receiver,
    signatures::Signatures,
};

/// How the jobs' ends were heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "by")]
pub enum Completion {
    /// The worker called back.
    Callback,
    /// Jobs were submitted without a callback URL, and looked up until they were over.
    Polling {
        /// Why.
        why: String,
    },
}

/// The receiver or the poller of a run, until it is dropped.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) ledger: Ledger,
    /// What the jobs are submitted with.
    pub(super) callback_url: Option<String>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// `/sync` makes no jobs.
    Nothing,
    Receiving {
        _until_dropped: DropGuard,
    },
    Polling {
        poller: Arc<Poller>,
        why: String,
        _until_dropped: AbortOnDropHandle<()>,
    },
}

impl Hearing {
    /// Listens for callbacks and tries one; polls where that is asked for, or is all that is possible.
    pub(super) async fn prepare(
        options: &StormOptions,
        api: &Api,
        signatures: Signatures,
    ) -> Result<Self> {
        let ledger = Ledger::new(Arc::new(probe::workload(None)), signatures);
        if options.mode == Mode::Sync {
            return Ok(Self {
                ledger,
                callback_url: None,
                way: Way::Nothing,
            });
        }
        if options.poll {
            return Ok(Self::polling(
                api,
                ledger,
                "asked for with --poll".to_owned(),
            ));
        }
        let listener = Listener::bind(options.callbacks.listen).await?;
        let (url, path) = options.callbacks.url(&listener);
        let receiving = receiver::receive(listener, &path, &ledger);
        match probe::try_callback(api, &ledger, &url).await? {
            Ok(()) => {
                let way = Way::Receiving {
                    _until_dropped: receiving,
                };
                Ok(Self {
                    ledger,
                    callback_url: Some(url),
                    way,
                })
            }
            Err(why) => Ok(Self::polling(api, ledger, why)),
        }
    }

    fn polling(api: &Api, ledger: Ledger, why: String) -> Self {
        let poller = Arc::new(Poller::new(api.clone(), ledger.clone()));
        let polling = tokio::spawn(Arc::clone(&poller).run());
        let way = Way::Polling {
            poller,
            why,
            _until_dropped: AbortOnDropHandle::new(polling),
        };
        Self {
            ledger,
            callback_url: None,
            way,
        }
    }

    /// Sees to it that the end of this accepted job is heard of.
    pub(super) fn watch(&self, id: RequestId, due: Instant) {
        if let Way::Polling { poller, .. } = &self.way {
            poller.watch(id, due + self.ledger.ideal());
        }
    }

    pub(super) fn completion(&self) -> Option<Completion> {
        match &self.way {
            Way::Nothing => None,
            Way::Receiving { .. } => Some(Completion::Callback),
            Way::Polling { why, .. } => Some(Completion::Polling { why: why.clone() }),
        }
    }
}
