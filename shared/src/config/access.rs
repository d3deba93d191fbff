//! The settings of authentication and rate limits.

use std::net::SocketAddr;

use super::{error::SettingError, layers::Layers, warning::Warning};
use crate::services::{
    access::{RateLimit, TokenHash, TokenHashError, Tokens},
    host_check::HostNames,
};

/// The settings of authentication and rate limits.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// The accepted tokens: `API_TOKENS`. If there are none, no token is required.
    pub tokens: Tokens,
    /// The operators' tokens: `ADMIN_TOKENS`. If there are none, there is no `/admin`.
    pub admin_tokens: Tokens,
    /// Whether the API may listen on any address without tokens: `API_OPEN`.
    pub open: bool,
    /// The host names that listeners without tokens answer to: `API_HOSTS`.
    pub hosts: HostNames,
    /// The requests that each client may make: `RATE_LIMIT`.
    pub rate_limit: Option<RateLimit>,
    /// The hash of the token that `/metrics` needs: `METRICS_TOKEN`.
    pub metrics_token: Option<TokenHash>,
    /// The separate address of the API's `/metrics`, if there is one: `METRICS_ADDR`.
    pub metrics_addr: Option<SocketAddr>,
}

impl AccessSettings {
    pub(super) fn read(layers: &Layers) -> Result<Self, SettingError> {
        let tokens = layers.try_parse_secret("api_tokens", Tokens::parse)?;
        let admin_tokens = layers.try_parse_secret("admin_tokens", |text| {
            let admins = Tokens::parse(text).map_err(|error| error.to_string())?;
            match admins.shared_with(&tokens) {
                None => Ok(admins),
                Some(number) => Err(format!(
                    "entry {number}: API_TOKENS has the same name or hash; expected a name and a \
                     token that are no client's"
                )),
            }
        })?;
        Ok(Self {
            tokens,
            admin_tokens,
            open: layers.parse("api_open", "true or false", |word| word.parse().ok())?,
            hosts: layers.try_parse_list("api_hosts", HostNames::parse)?,
            rate_limit: layers.try_parse("rate_limit", |text| unless_empty(text, str::parse))?,
            metrics_token: layers
                .try_parse_secret("metrics_token", |text| unless_empty(text, parse_hash))?,
            metrics_addr: layers.optional_address("metrics_addr")?,
        })
    }

    /// Tokens that anyone can guess.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        const REMEDY: &str = "is the hash of a well-known word or name, which anyone can guess; \
                              replace it by a token that `storm-api token new NAME` makes";
        let mut warnings = Vec::new();
        for (name, tokens) in [
            ("API_TOKENS", &self.tokens),
            ("ADMIN_TOKENS", &self.admin_tokens),
        ] {
            let numbers = tokens.guessable().into_iter();
            let warning = |number| Warning::new(name, format!("entry {number} {REMEDY}"));
            warnings.extend(numbers.map(warning));
        }
        if self.metrics_token.is_some_and(TokenHash::is_guessable) {
            warnings.push(Warning::new("METRICS_TOKEN", format!("it {REMEDY}")));
        }
        warnings
    }

    /// Checks whether the API may listen on `addr`, the value of `API_ADDR`. Without tokens, an
    /// address that other hosts can reach needs `API_OPEN=true`.
    ///
    /// # Errors
    /// It may not. The error names both ways to allow it.
    pub fn check_exposure(&self, addr: SocketAddr) -> Result<(), SettingError> {
        // Canonical, because `is_loopback` is false for `::ffff:127.0.0.1`.
        if !self.tokens.is_empty() || self.open || addr.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(SettingError::Value {
            name: "API_ADDR".to_owned(),
            value: addr.to_string(),
            problem: "without tokens the API listens on loopback only; set API_TOKENS (`storm-api \
                      token new NAME` makes a token), or API_OPEN=true to accept every client"
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

/// Parses a hash, or the hash in an entry `NAME:SHA256`.
fn parse_hash(text: &str) -> Result<TokenHash, TokenHashError> {
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

    fn error_of(name: &str, value: &str) -> String {
        Settings::with([(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn a_value_that_is_not_accepted_is_an_error_with_what_is_accepted() {
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
            assert_eq!(error_of(name, value), expected);
        }
        assert_eq!(
            error_of("API_HOSTS", "api worker:9000"),
            "API_HOSTS=api worker:9000: entry 2: expected a host name without scheme, port and path, \
             such as api.example.com; IP addresses need no entry"
        );
    }

    #[test]
    fn the_error_for_a_token_setting_shows_neither_token_nor_hash() {
        let token = Token::generate().unwrap();
        let (text, hash) = (token.as_str(), token.hash().to_hex());
        for (name, value) in [
            ("API_TOKENS", format!("a:{text}")),
            ("API_TOKENS", format!("a:{hash},b:{hash}")),
            ("API_TOKENS", format!("{hash}\n")),
            ("API_TOKENS", format!("a:\u{7}{hash}")),
            ("ADMIN_TOKENS", format!("a:{text}")),
            ("METRICS_TOKEN", text.to_owned()),
            ("METRICS_TOKEN", format!("{hash}\u{7}")),
        ] {
            let error = error_of(name, &value);
            assert!(error.starts_with(&format!("{name}=(hidden): ")), "{error}");
            assert!(error.lines().count() == 1, "{error}");
            assert!(!error.contains(text) && !error.contains(&hash), "{error}");
        }
    }

    #[test]
    fn debug_output_of_the_settings_shows_no_hash() {
        let hash = Token::generate().unwrap().hash().to_hex();
        let tokens = format!("billing:{hash}");
        let settings = [("API_TOKENS", tokens.as_str()), ("METRICS_TOKEN", &hash)];
        let printed = format!("{:?}", Settings::with(settings).unwrap());
        assert!(printed.contains("billing"), "{printed}");
        assert!(!printed.contains(&hash), "{printed}");
    }

    #[test]
    fn an_operator_shares_neither_name_nor_token_with_a_client() {
        let hash = |number| format!("{number:064x}");
        let with = |admins: &str| {
            let tokens = format!("a:{},b:{}", hash(1), hash(2));
            Settings::with([("API_TOKENS", tokens.as_str()), ("ADMIN_TOKENS", admins)])
        };
        let settings = with(&format!("c:{},c:{}", hash(3), hash(4))).unwrap();
        assert_eq!(settings.access.admin_tokens.clients().len(), 1);
        assert!(with("").unwrap().access.admin_tokens.is_empty());
        for (admins, number) in [
            (format!("b:{}", hash(3)), 1),
            (format!("c:{},d:{}", hash(3), hash(2)), 2),
        ] {
            let error = with(&admins).unwrap_err().to_string();
            let begin = format!("ADMIN_TOKENS=(hidden): entry {number}: API_TOKENS has");
            assert!(error.starts_with(&begin), "{error}");
        }
    }

    #[test]
    fn metrics_token_accepts_a_hash_or_an_entry() {
        let token = Token::generate().unwrap();
        let hash = token.hash().to_hex();
        for value in [hash.clone(), format!("prometheus:{hash}")] {
            let settings = Settings::with([("METRICS_TOKEN", value.as_str())]).unwrap();
            assert_eq!(settings.access.metrics_token, Some(token.hash()));
        }
    }

    /// Whether the API may listen on `addr` with these settings.
    fn check(addr: &str, overrides: &[(&str, &str)]) -> Result<(), SettingError> {
        let overrides = overrides.iter().copied();
        let settings = Settings::with(overrides.chain([("API_ADDR", addr)])).unwrap();
        settings.access.check_exposure(settings.api.addr)
    }

    #[test]
    fn without_tokens_the_api_listens_on_loopback_only_unless_api_open_is_true() {
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
