//! Authentication of clients by bearer tokens (RFC 6750), and their rate limit.
//!
//! The settings contain the SHA-256 of each token, not the token, so reading the settings gives no
//! access. A token has 256 random bits, which cannot be guessed, so its hash needs neither a salt
//! nor a slow hash function.

mod bearer;
mod rate_limit;
mod token;
mod well_known;

use std::{collections::HashSet, fmt};

use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use thiserror::Error;

pub use self::{
    bearer::bearer,
    rate_limit::{RateLimit, RateLimitError},
    token::{Token, TokenHash, TokenHashError},
};
use crate::{
    list,
    models::{ClientName, ClientNameError},
};

/// The accepted tokens and the client of each: `API_TOKENS`. The default has no tokens.
#[derive(Clone, Default)]
pub struct Tokens {
    clients: Vec<ClientName>,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    hash: TokenHash,
    /// The client's index in [`Tokens::clients`].
    client: u32,
}

/// Why a list of tokens is rejected. No error quotes the list: what should be a hash may be a
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokensError {
    /// Only separators. Accepting it would disable authentication although the setting is not
    /// empty.
    #[error("it contains only separators; leave it empty to disable authentication")]
    OnlySeparators,
    /// Not NAME:SHA256.
    #[error("entry {0}: expected NAME:SHA256, as `storm-api token new NAME` prints it")]
    Form(usize),
    /// The name is not a client name.
    #[error("entry {0}: {1}")]
    Name(usize, ClientNameError),
    /// The hash is not a SHA-256.
    #[error("entry {0}: {1}")]
    Hash(usize, TokenHashError),
    /// The same token twice, for one name or two.
    #[error("entry {0}: an earlier entry has the same hash; expected each token once")]
    Repeated(usize),
    /// Too many entries.
    #[error("expected at most {} entries", Tokens::MAX)]
    TooMany,
}

impl Tokens {
    /// The most tokens. Each request is compared with every one of them.
    pub const MAX: usize = 1000;

    /// Parses `NAME:SHA256` entries, separated by commas or white space. A name may have several
    /// tokens, so that a token can be replaced while the old one is still accepted.
    ///
    /// # Errors
    /// The number of the first entry that is not accepted, from 1, and why.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let entries = list::entries(text).ok_or(TokensError::OnlySeparators)?;
        let (mut tokens, mut seen) = (Self::default(), HashSet::new());
        for (number, entry) in (1..).zip(entries) {
            if number > Self::MAX {
                return Err(TokensError::TooMany);
            }
            let (name, hash) = entry.split_once(':').ok_or(TokensError::Form(number))?;
            let name = name.parse().map_err(|e| TokensError::Name(number, e))?;
            let hash: TokenHash = hash.parse().map_err(|e| TokensError::Hash(number, e))?;
            if !seen.insert(hash) {
                return Err(TokensError::Repeated(number));
            }
            let client = tokens.index_of(name);
            tokens.entries.push(Entry { hash, client });
        }
        Ok(tokens)
    }

    /// The numbers of the entries, from 1, whose token is a well-known word or a client's name.
    pub fn guessable(&self) -> Vec<usize> {
        let known = well_known::hashes(self.clients.iter().map(ClientName::as_str));
        let entries = (1..).zip(&self.entries);
        entries
            .filter(|(_, entry)| known.contains(&entry.hash))
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether there are no tokens, so that authentication is disabled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names of the clients, each once.
    pub fn clients(&self) -> &[ClientName] {
        &self.clients
    }

    /// The number of the first entry, from 1, whose client or token is also in `others`.
    pub fn shared_with(&self, others: &Self) -> Option<usize> {
        let entries = (1..).zip(&self.entries);
        let mut shared = entries.filter(|(_, entry)| {
            let name = &self.clients[entry.client as usize];
            others.clients.contains(name) || others.entries.iter().any(|it| it.hash == entry.hash)
        });
        shared.next().map(|(number, _)| number)
    }

    /// The client to whom `token` belongs, as an index into [`Tokens::clients`].
    ///
    /// Compares every entry in constant time, also after a match, so that the duration reveals
    /// neither a part of a hash nor which entry matched.
    pub fn client_of(&self, token: &[u8]) -> Option<usize> {
        let presented = TokenHash::of(token);
        // No client has this index: there are at most MAX. `u32`, because subtle can't assign a
        // `usize` in constant time.
        let mut found = u32::MAX;
        for entry in &self.entries {
            // Without a branch. Hashes are unique, so at most one entry matches.
            found.conditional_assign(&entry.client, entry.hash.ct_eq(&presented));
        }
        usize::try_from(found)
            .ok()
            .filter(|&client| client < self.clients.len())
    }

    /// The client's index. Adds the client if it is new.
    #[expect(
        clippy::expect_used,
        reason = "there are at most as many clients as tokens, and `parse` limits these to MAX"
    )]
    fn index_of(&mut self, name: ClientName) -> u32 {
        let known = self.clients.iter().position(|client| *client == name);
        let index = known.unwrap_or_else(|| {
            self.clients.push(name);
            self.clients.len() - 1
        });
        index.try_into().expect("at most MAX clients")
    }
}

impl TokenHash {
    /// Whether this is the hash of a well-known word.
    pub fn is_guessable(self) -> bool {
        well_known::hashes([]).contains(&self)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("clients", &self.clients)
            .finish_non_exhaustive() // No hash is logged.
    }
}

#[cfg(test)]
mod tests {
    use super::{Token, TokenHash, Tokens, TokensError};

    fn entry(name: &str, token: &Token) -> String {
        format!("{name}:{}", token.hash().to_hex())
    }

    fn tokens<const N: usize>() -> [Token; N] {
        [(); N].map(|()| Token::generate().unwrap())
    }

    #[test]
    fn a_token_belongs_to_one_name_and_a_name_may_have_several() {
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
    fn a_hash_is_not_accepted_as_a_token() {
        let [token] = tokens();
        let tokens = Tokens::parse(&entry("a", &token)).unwrap();
        assert_eq!(tokens.client_of(token.hash().to_hex().as_bytes()), None);
    }

    #[test]
    fn the_error_for_a_list_has_the_entrys_number_and_none_of_its_text() {
        let [token, second] = tokens();
        let good = entry("a", &token);
        let hash = token.hash().to_hex();
        for (text, error) in [
            (" , ".to_owned(), TokensError::OnlySeparators),
            ("storm".to_owned(), TokensError::Form(1)),
            (format!("{good} {hash}"), TokensError::Form(2)),
            (format!("{good},b:{hash}"), TokensError::Repeated(2)),
            (format!("{good},{good}"), TokensError::Repeated(2)),
        ] {
            let actual = Tokens::parse(&text).unwrap_err();
            assert_eq!(actual, error);
            assert!(!actual.to_string().contains(&hash));
        }
        for text in [
            format!("a:{}", second.as_str()),
            format!("a b:{}", second.as_str()),
            format!("a:{hash}0"),
            format!("{}:{hash}", second.as_str().repeat(2)),
        ] {
            let error = Tokens::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with("entry "), "{error}");
            assert!(!error.contains(second.as_str()) && !error.contains(&hash));
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
    fn a_token_that_is_a_well_known_word_or_the_clients_name_is_found_by_its_number() {
        let [random] = tokens();
        let of = |word: &str| TokenHash::of(word.as_bytes()).to_hex();
        let words = ["secret", "Password", "TEST", "test\n", "", "billing"];
        let entries = words.map(|word| format!("billing:{}", of(word)));
        let text = format!("{},{}", entry("a", &random), entries.join(","));
        assert_eq!(
            Tokens::parse(&text).unwrap().guessable(),
            [2, 3, 4, 5, 6, 7]
        );
        assert!(TokenHash::of(b"changeme").is_guessable());
        assert!(!random.hash().is_guessable());
    }

    #[test]
    fn debug_output_shows_names_and_no_hashes() {
        let [token] = tokens();
        let tokens = Tokens::parse(&entry("billing", &token)).unwrap();
        let (printed, hash) = (format!("{tokens:?}"), token.hash());
        assert!(printed.contains("billing"), "{printed}");
        assert!(!printed.contains(&hash.to_hex()) && !printed.contains("entries"));
        assert_eq!(format!("{hash:?} {token:?}"), "TokenHash(..) Token(..)");
    }
}
