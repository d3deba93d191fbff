//! The settings of the delivery of callbacks.

use std::{path::PathBuf, time::Duration};

use super::{error::SettingError, layers::Layers, warning::Warning};
use crate::services::{
    signature::Signer,
    ssrf::{AllowList, DenyList, Nat64, Policy, PolicySettings, Ports},
};

/// The settings of the delivery of callbacks.
#[derive(Clone, Debug)]
pub struct CallbackSettings {
    /// The SSRF policy: `CALLBACK_ALLOW`, `CALLBACK_DENY`, `CALLBACK_PORTS`, `CALLBACK_NAT64`.
    pub policy: Policy,
    /// Time for one attempt: `CALLBACK_TIMEOUT`.
    pub timeout: Duration,
    /// The retry schedule.
    pub retry: RetrySettings,
    /// Attempts of one worker to one origin at a time: `CALLBACK_PER_ORIGIN`.
    pub per_origin: usize,
    /// The longest time for which an attempt is postponed because its circuit breaker is open:
    /// `CALLBACK_PARK_MAX`.
    pub park_max: Duration,
    /// Jobs of one tenant that may wait for one origin: `MAX_PARKED_PER_ORIGIN`.
    pub max_parked: usize,
    /// Additional trusted certificate authorities: `CALLBACK_CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// The secrets that sign callbacks: `CALLBACK_SIGNING_SECRETS`.
    pub signer: Signer,
}

/// The retry schedule.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// The wait before each retry: `CALLBACK_RETRY_DELAYS`, or the `retry_delays` of a handler.
    pub delays: Vec<Duration>,
    /// The random part by which a wait is lengthened at most, as a fraction of the wait, 0 to 1:
    /// `CALLBACK_RETRY_JITTER`.
    pub jitter: f64,
    /// The longest wait that a receiver can ask for: `CALLBACK_RETRY_AFTER_MAX`.
    pub retry_after_max: Duration,
}

impl CallbackSettings {
    /// Signing secrets that can be guessed.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let remedy = "anyone who guesses it can forge callbacks; replace it by 32 random bytes, as \
                      docs/RECEIVERS.md shows";
        let weaknesses = self.signer.weaknesses().iter();
        weaknesses
            .map(|weak| Warning::new("CALLBACK_SIGNING_SECRETS", format!("{weak}: {remedy}")))
            .collect()
    }

    pub(super) fn read(layers: &Layers) -> Result<Self, SettingError> {
        Ok(Self {
            policy: Policy::from(PolicySettings {
                allow: layers.try_parse_list("callback_allow", AllowList::parse)?,
                deny: layers.try_parse_list("callback_deny", DenyList::parse)?,
                ports: layers.try_parse_list("callback_ports", Ports::parse)?,
                nat64: layers.try_parse("callback_nat64", Nat64::parse)?,
            }),
            timeout: layers.duration("callback_timeout")?,
            retry: RetrySettings {
                delays: layers.durations("callback_retry_delays")?,
                jitter: layers.parse("callback_retry_jitter", "a number from 0 to 1", |text| {
                    // `contains` is false for NaN, which parses as a number.
                    text.parse().ok().filter(|n| (0.0..=1.0).contains(n))
                })?,
                retry_after_max: layers.duration("callback_retry_after_max")?,
            },
            per_origin: layers.number("callback_per_origin", 1..=100_000)?,
            park_max: layers.duration("callback_park_max")?,
            max_parked: layers.number("max_parked_per_origin", 1..=100_000_000)?,
            ca_file: Some(layers.text("callback_ca_file")?)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            signer: layers.try_parse_secret("callback_signing_secrets", Signer::parse)?,
        })
    }
}
