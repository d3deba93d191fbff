//! Who may ask, and how often: the bearer tokens (RFC 6750) that the settings name by their hashes.
//!
//! A token is random, and what is kept of it is its SHA-256: who reads the settings has no token. Such a
//! hash needs no salt and no slowness, for there is nothing to guess in 256 random bits.

mod bearer;
mod rate_limit;
mod token;

use std::{collections::HashSet, fmt};

use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use thiserror::Error;

pub use self::{
    bearer::bearer,
    rate_limit::{RateLimit, RateLimitError},
    token::{Token, TokenHash, TokenHashError},
};
use crate::models::{ClientName, ClientNameError};

/// The tokens that are accepted, each with its client's name: `API_TOKENS`. The default is none at all.
#[derive(Clone, Default)]
pub struct Tokens {
    clients: Vec<ClientName>,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    hash: TokenHash,
    /// Its client's place among the clients.
    client: u32,
}

/// Why a list of tokens is refused. No word of it is shown: what was meant to be a hash may be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokensError {
    /// Commas and nothing between them, which would let everybody in and look like it did not.
    #[error("there is no entry between the commas; empty, no token is asked for")]
    NoneBetween,
    /// Not NAME:HASH.
    #[error("entry {0} is not of the form NAME:SHA256, as `storm-api token new NAME` prints it")]
    Form(usize),
    /// The name can't be used.
    #[error("entry {0}: {1}")]
    Name(usize, ClientNameError),
    /// The hash is none.
    #[error("entry {0}: {1}")]
    Hash(usize, TokenHashError),
    /// One token for two names, or twice.
    #[error("entry {0} has the hash of an earlier one; a token belongs to one name, once")]
    Repeated(usize),
    /// Too many.
    #[error("expected at most {} entries", Tokens::MOST)]
    TooMany,
}

impl Tokens {
    /// The most tokens: each of them is looked at for every request.
    pub const MOST: usize = 1000;

    /// Reads `NAME:SHA256` entries between commas or white space. A name may have several, so that a token
    /// can be replaced while both the old and the new one are good.
    ///
    /// # Errors
    /// The first entry that can't be used, by its place.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let is_separator = |c: char| c == ',' || c.is_whitespace();
        if text.contains(',') && text.trim_matches(is_separator).is_empty() {
            return Err(TokensError::NoneBetween);
        }
        let entries = text.split(is_separator);
        let (mut tokens, mut seen) = (Self::default(), HashSet::new());
        for (place, entry) in (1..).zip(entries.filter(|entry| !entry.is_empty())) {
            if place > Self::MOST {
                return Err(TokensError::TooMany);
            }
            let (name, hash) = entry.split_once(':').ok_or(TokensError::Form(place))?;
            let name = name.parse().map_err(|e| TokensError::Name(place, e))?;
            let hash: TokenHash = hash.parse().map_err(|e| TokensError::Hash(place, e))?;
            if !seen.insert(hash) {
                return Err(TokensError::Repeated(place));
            }
            let client = tokens.place_of(name);
            tokens.entries.push(Entry { hash, client });
        }
        Ok(tokens)
    }

    /// Whether there are none: then nobody is asked for one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names, each once.
    pub fn clients(&self) -> &[ClientName] {
        &self.clients
    }

    /// Whose token this is: the client's place among [`Tokens::clients`].
    ///
    /// Every entry is compared, and each to its end, whichever it is: the time it takes tells nothing.
    pub fn client_of(&self, token: &[u8]) -> Option<usize> {
        let presented = TokenHash::of(token);
        let mut found = u32::MAX;
        for entry in &self.entries {
            found.conditional_assign(&entry.client, entry.hash.ct_eq(&presented));
        }
        usize::try_from(found)
            .ok()
            .filter(|&client| client < self.clients.len())
    }

    fn place_of(&mut self, name: ClientName) -> u32 {
        let known = self.clients.iter().position(|client| *client == name);
        let place = known.unwrap_or_else(|| {
            self.clients.push(name);
            self.clients.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX) // there are MOST of them
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("clients", &self.clients)
            .finish_non_exhaustive() // the hashes are nobody's business
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, Tokens, TokensError};

    fn entry(name: &str, token: &Token) -> String {
        format!("{name}:{}", token.hash().to_hex())
    }

    fn tokens<const N: usize>() -> [Token; N] {
        [(); N].map(|()| Token::generate().unwrap())
    }

    #[test]
    fn a_token_is_its_names_and_a_name_may_have_several() {
        let [old, new, other, unknown] = tokens();
        let text = format!(
            " {},{}\n {} ,",
            entry("a", &old),
            entry("b", &other),
            entry("a", &new)
        );
        let tokens = Tokens::parse(&text).unwrap();
        let name_of = |token: &Token| {
            let client = tokens.client_of(token.as_str().as_bytes())?;
            Some(tokens.clients()[client].as_str())
        };
        assert_eq!(name_of(&old), Some("a"));
        assert_eq!(name_of(&new), Some("a"));
        assert_eq!(name_of(&other), Some("b"));
        assert_eq!(name_of(&unknown), None);
        assert_eq!(tokens.client_of(b""), None);
    }

    #[test]
    fn a_hash_is_no_token() {
        let [token] = tokens();
        let tokens = Tokens::parse(&entry("a", &token)).unwrap();
        assert_eq!(tokens.client_of(token.hash().to_hex().as_bytes()), None);
    }

    #[test]
    fn a_list_that_can_not_be_used_is_refused_by_its_place_and_shown_to_nobody() {
        let [token, second] = tokens();
        let good = entry("a", &token);
        let hash = token.hash().to_hex();
        for (text, error) in [
            (" , ".to_owned(), TokensError::NoneBetween),
            ("storm".to_owned(), TokensError::Form(1)),
            (format!("{good} {hash}"), TokensError::Form(2)),
            (format!("{good},b:{hash}"), TokensError::Repeated(2)),
            (format!("{good},{good}"), TokensError::Repeated(2)),
        ] {
            let refused = Tokens::parse(&text).unwrap_err();
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains(&hash));
        }
        for text in [
            format!("a:{}", second.as_str()),
            format!("a b:{}", second.as_str()),
            format!("a:{hash}0"),
            format!("{}:{hash}", second.as_str().repeat(2)),
        ] {
            let refused = Tokens::parse(&text).unwrap_err().to_string();
            assert!(refused.starts_with("entry "), "{refused}");
            assert!(!refused.contains(second.as_str()) && !refused.contains(&hash));
        }
    }

    #[test]
    fn a_thousand_tokens_are_accepted_and_no_more() {
        let list = |count| {
            let entries = (0..count).map(|n| format!("name-{n}:{n:064x}"));
            entries.collect::<Vec<_>>().join(",")
        };
        assert_eq!(Tokens::parse(&list(1000)).unwrap().clients().len(), 1000);
        assert_eq!(Tokens::parse(&list(1001)).err(), Some(TokensError::TooMany));
    }

    #[test]
    fn what_is_printed_of_tokens_are_their_names() {
        let [token] = tokens();
        let tokens = Tokens::parse(&entry("billing", &token)).unwrap();
        let (printed, hash) = (format!("{tokens:?}"), token.hash());
        assert!(printed.contains("billing"), "{printed}");
        assert!(!printed.contains(&hash.to_hex()) && !printed.contains("entries"));
        assert_eq!(format!("{hash:?} {token:?}"), "TokenHash(..) Token(..)");
    }
}
