//! The check of one URL, step by step.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
};

use storm_shared::{models::CallbackUrl, services::ssrf::PolicyViolation};

use super::checker::{Checker, UNRESOLVED};
use crate::delivery::{AddressSource, Denial, Resolution};

/// The steps as lines, and the verdict.
pub(super) struct Explanation {
    text: String,
    allowed: bool,
}

/// Checks `text` as a callback URL and records each step.
pub(super) async fn explain(checker: &Checker, text: &str) -> Explanation {
    let mut explanation = Explanation {
        text: String::new(),
        allowed: false,
    };
    let url = match CallbackUrl::parse(text) {
        Ok(url) => url,
        Err(error) => {
            explanation.deny(error.name(), &format_args!("the callback URL {error}"));
            return explanation;
        }
    };
    explanation.step("normal form", &url.target());
    if let Some(resolution) = checker.resolution(&url).await {
        explanation.show(&url, resolution);
    } else {
        let timeout = checker.timeout;
        explanation.deny(
            UNRESOLVED,
            &format_args!("no answer within CALLBACK_TIMEOUT, {timeout:?}"),
        );
    }
    explanation
}

impl Explanation {
    pub(super) fn exit_code(&self) -> ExitCode {
        if self.allowed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn show(&mut self, url: &CallbackUrl, resolution: Resolution) {
        match &resolution.port {
            Ok(port) => self.step("port", &format_args!("{port}, allowed")),
            Err(refusal) => self.step("port", refusal),
        }
        if resolution.port.is_ok() {
            self.show_addresses(url, &resolution);
        }
        match resolution.into_allowed() {
            Ok(_) => self.allow(),
            Err(Denial::Refused(refusal)) => self.deny(refusal.class(), &refusal),
            Err(Denial::Unresolved(error)) => self.deny(UNRESOLVED, &error),
        }
    }

    fn show_addresses(&mut self, url: &CallbackUrl, resolution: &Resolution) {
        let host = url.url().host_str().unwrap_or_default();
        let source = match resolution.source {
            AddressSource::Literal => format!("not needed: {host} is an address literal"),
            AddressSource::Localhost => {
                format!("not needed: {host} is both loopback addresses")
            }
            AddressSource::LookUp => match &resolution.addresses {
                Ok(addresses) => format!("{host}, addresses: {}", addresses.len()),
                Err(error) => format!("{host}: {error}"),
            },
        };
        self.step("look-up", &source);
        for address in resolution.addresses.iter().flatten() {
            self.show_address(address);
        }
    }

    fn show_address(&mut self, judged: &Result<IpAddr, PolicyViolation>) {
        match judged {
            Ok(address) => self.step("address", &format_args!("{address}, allowed")),
            Err(refusal) => self.step("address", refusal),
        }
    }

    fn allow(&mut self) {
        self.allowed = true;
        self.step("verdict", &"allow");
    }

    fn deny(&mut self, rule: &str, why: &dyn fmt::Display) {
        self.step("verdict", &format_args!("deny by rule {rule}: {why}"));
    }

    fn step(&mut self, name: &str, what: &dyn fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{name:<12} {what}");
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
