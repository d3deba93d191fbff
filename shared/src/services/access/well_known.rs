//! The hashes of texts that are no secret: a token must not have one of them.

use std::{collections::HashSet, iter};

use super::token::TokenHash;

/// What people write where a token belongs, what password lists begin with, and the README's
/// sample. Separated by spaces.
const WORDS: &str = "0 1 123 1234 12345 123456 1234567 12345678 123456789 1234567890 abc abc123 \
    admin api api-key api-token api_key api_token apikey bar bearer change-me change_me changeme \
    default demo dev example foo foobar guest hello letmein local metrics my-secret my-token \
    mytoken none null pass passw0rd password password1 password123 prometheus qwerty root secret \
    storm supersecret test test123 token user welcome your-token \
    storm_5d932350ffb157dd79d022037cf8a5188a5ceb4f83220e7194f83bfce56bc2df";

/// The hashes of the words, of `names` and of the empty text: in lower case, in upper case and with
/// a capital; each also with the line break that `echo WORD | sha256sum` adds.
pub(super) fn hashes<'a>(names: impl IntoIterator<Item = &'a str>) -> HashSet<TokenHash> {
    WORDS
        .split(' ')
        .chain(names)
        .chain([""])
        .flat_map(spellings)
        .flat_map(|word| [format!("{word}\n"), word])
        .map(|text| TokenHash::of(text.as_bytes()))
        .collect()
}

fn spellings(word: &str) -> impl Iterator<Item = String> {
    let capital = word.get(..1).zip(word.get(1..));
    let capital = capital.map(|(first, rest)| first.to_ascii_uppercase() + rest);
    iter::once(word.to_owned())
        .chain(capital)
        .chain(iter::once(word.to_ascii_uppercase()))
}
