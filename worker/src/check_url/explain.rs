//! What the guard would do with one URL, step by step.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
};

use storm_shared::{models::CallbackUrl, services::ssrf::PolicyViolation};

use super::{Checker, UNRESOLVED};
use crate::delivery::{AddressSource, Denial, Findings};

/// The steps as lines, and where they end.
pub(super) struct Explanation {
    text: String,
    allowed: bool,
}

pub(super) async fn explain(checker: &Checker, text: &str) -> Explanation {
    let mut told = Explanation {
        text: String::new(),
        allowed: false,
    };
    let url = match CallbackUrl::parse(text) {
        Ok(url) => url,
        Err(error) => {
            told.deny(error.name(), &format_args!("a callback's URL {error}"));
            return told;
        }
    };
    told.step("normal form", &url.target());
    if let Some(findings) = checker.findings(&url).await {
        told.tell_of(&url, findings);
    } else {
        let timeout = checker.timeout;
        told.deny(
            UNRESOLVED,
            &format_args!("no answer within CALLBACK_TIMEOUT, {timeout:?}"),
        );
    }
    told
}

impl Explanation {
    pub(super) fn exit_code(&self) -> ExitCode {
        if self.allowed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn tell_of(&mut self, url: &CallbackUrl, findings: Findings) {
        match &findings.port {
            Ok(port) => self.step("port", &format_args!("{port}, allowed")),
            Err(refusal) => self.step("port", refusal),
        }
        if findings.port.is_ok() {
            self.tell_of_addresses(url, &findings);
        }
        match findings.verdict() {
            Ok(_) => self.allow(),
            Err(Denial::Refused(refusal)) => self.deny(refusal.class(), &refusal),
            Err(Denial::Unresolved(error)) => self.deny(UNRESOLVED, &error),
        }
    }

    fn tell_of_addresses(&mut self, url: &CallbackUrl, findings: &Findings) {
        let host = url.url().host_str().unwrap_or_default();
        let source = match findings.source {
            AddressSource::Literal => format!("none: {host} is an address"),
            AddressSource::Localhost => {
                format!("none: {host} is this host, at either of its addresses")
            }
            AddressSource::LookUp => match &findings.addresses {
                Ok(addresses) => format!("{host}, addresses: {}", addresses.len()),
                Err(error) => format!("{host}: {error}"),
            },
        };
        self.step("look-up", &source);
        for address in findings.addresses.iter().flatten() {
            self.tell_of_address(address);
        }
    }

    fn tell_of_address(&mut self, judged: &Result<IpAddr, PolicyViolation>) {
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
        self.step("verdict", &format_args!("deny by the rule {rule}: {why}"));
    }

    fn step(&mut self, name: &str, what: &dyn fmt::Display) {
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "{name:<12} {what}");
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
