//! Who may ask, and how often.

use std::net::SocketAddr;

use super::layers::{Layers, SettingError};
use crate::services::access::{RateLimit, TokenHash, TokenHashError, Tokens};

/// The settings of access.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// Who may use the API; empty where everybody may: `API_TOKENS`.
    pub tokens: Tokens,
    /// Whether it may be open to whoever reaches it: `API_OPEN`.
    pub open: bool,
    /// How often each client may ask: `RATE_LIMIT`.
    pub rate_limit: Option<RateLimit>,
    /// What `/metrics` needs: `METRICS_TOKEN`.
    pub metrics_token: Option<TokenHash>,
    /// Where the API answers `/metrics`, if not with everything else: `METRICS_ADDR`.
    pub metrics_addr: Option<SocketAddr>,
}

impl AccessSettings {
    pub(super) fn read(layers: &Layers) -> Result<Self, SettingError> {
        Ok(Self {
            tokens: layers.try_parse_secret("api_tokens", Tokens::parse)?,
            open: layers.parse("api_open", "true or false", |word| word.parse().ok())?,
            rate_limit: layers.try_parse("rate_limit", |text| unless_empty(text, str::parse))?,
            metrics_token: layers
                .try_parse_secret("metrics_token", |text| unless_empty(text, hash))?,
            metrics_addr: layers.optional_address("metrics_addr")?,
        })
    }

    /// Whether the API may listen on `addr`, which the setting `API_ADDR` names: without tokens others
    /// than this machine's own may reach it only where that is said to be meant.
    ///
    /// # Errors
    /// It may not; the error tells the two ways out.
    pub fn check_exposure(&self, addr: SocketAddr) -> Result<(), SettingError> {
        if !self.tokens.is_empty() || self.open || addr.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(SettingError::Value {
            name: "API_ADDR".to_owned(),
            value: addr.to_string(),
            problem:
                "without tokens the API listens on loopback only: set API_TOKENS (storm-api token \
                      new NAME makes one), or API_OPEN=true if whoever reaches it may use it"
                    .to_owned(),
        })
    }
}

fn unless_empty<T, E>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, E> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

/// The hash, alone or as an entry has it behind a name.
fn hash(text: &str) -> Result<TokenHash, TokenHashError> {
    text.split_once(':')
        .map_or(text, |(_name, hash)| hash)
        .parse()
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{SettingError, Settings},
        services::access::Token,
    };

    fn refusal(name: &str, value: &str) -> String {
        Settings::with([(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_value_is_refused_with_what_is_accepted() {
        for (name, value, accepted) in [
            ("API_OPEN", "yes", "true or false"),
            (
                "RATE_LIMIT",
                "many",
                "nothing, or 1 to 1000000 requests per s, m or h, such as 100/s or 6000/m",
            ),
            (
                "METRICS_ADDR",
                "9100",
                "nothing, or address:port, such as 127.0.0.1:8000",
            ),
        ] {
            let expected = format!("{name}={value}: expected {accepted}");
            assert_eq!(refusal(name, value), expected);
        }
    }

    #[test]
    fn a_refused_token_is_named_by_its_place_and_not_printed() {
        let token = Token::generate().unwrap();
        let (text, hash) = (token.as_str(), token.hash().to_hex());
        for (name, value) in [
            ("API_TOKENS", format!("a:{text}")),
            ("API_TOKENS", format!("a:{hash},b:{hash}")),
            ("API_TOKENS", format!("{hash}\n")),
            ("API_TOKENS", format!("a:\u{7}{hash}")),
            ("METRICS_TOKEN", text.to_owned()),
            ("METRICS_TOKEN", format!("{hash}\u{7}")),
        ] {
            let error = refusal(name, &value);
            assert!(error.starts_with(&format!("{name}=(hidden): ")), "{error}");
            assert!(error.lines().count() == 1, "{error}");
            assert!(!error.contains(text) && !error.contains(&hash), "{error}");
        }
    }

    #[test]
    fn no_hash_stands_in_what_is_printed_of_the_settings() {
        let hash = Token::generate().unwrap().hash().to_hex();
        let tokens = format!("billing:{hash}");
        let settings = [("API_TOKENS", tokens.as_str()), ("METRICS_TOKEN", &hash)];
        let printed = format!("{:?}", Settings::with(settings).unwrap());
        assert!(printed.contains("billing"), "{printed}");
        assert!(!printed.contains(&hash), "{printed}");
    }

    #[test]
    fn the_token_for_metrics_may_be_given_as_an_entry() {
        let token = Token::generate().unwrap();
        let hash = token.hash().to_hex();
        for value in [hash.clone(), format!("prometheus:{hash}")] {
            let settings = Settings::with([("METRICS_TOKEN", value.as_str())]).unwrap();
            assert_eq!(settings.access.metrics_token, Some(token.hash()));
        }
    }

    /// Whether the API may listen there.
    fn check(addr: &str, overrides: &[(&str, &str)]) -> Result<(), SettingError> {
        let overrides = overrides.iter().copied();
        let settings = Settings::with(overrides.chain([("API_ADDR", addr)])).unwrap();
        settings.access.check_exposure(settings.api.addr)
    }

    #[test]
    fn without_tokens_the_api_listens_on_loopback_only_unless_it_is_said_to_be_open() {
        for addr in [
            "127.0.0.1:0",
            "127.1.2.3:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            check(addr, &[]).unwrap();
        }
        let tokens = format!("a:{:064x}", 1);
        for addr in ["0.0.0.0:8000", "[::]:8000", "192.0.2.1:80", "[fe80::1]:80"] {
            let error = check(addr, &[]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("API_ADDR={addr}: ")), "{error}");
            assert!(error.contains("API_TOKENS") && error.contains("API_OPEN=true"));
            check(addr, &[("API_OPEN", "true")]).unwrap();
            check(addr, &[("API_TOKENS", &tokens)]).unwrap();
        }
    }
}
