//! Whether the bytes of a secret can have come from a random generator.

use std::{collections::HashSet, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// 24 random bytes have fewer different values than this once in 10^15 times.
const REFUSED_BELOW: usize = 8;
/// The same once in 10^7 times.
const DOUBTFUL_BELOW: usize = 14;

/// Secrets of the documentation of Standard Webhooks and Svix, of RFC 8032, and of this project's
/// tests. Anyone who has read one of these can forge callbacks.
const PUBLISHED: [&str; 9] = [
    "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH",
    "plJ3nmyCDGBKInavdOK15jsl",
    "C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=",
    "VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
    // RFC 8032, section 7.1.
    "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
    "TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=",
    "xaqN9D+fg3vtt0QvMdy3sWbThTUHbwlLhc46LgtEWPc=",
];

/// Why a secret that is accepted can be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakness {
    /// It stands in public documentation.
    Published,
    /// Every byte is a printable character.
    Text,
    /// Its bytes repeat or follow a rule.
    Pattern,
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Published => "is a published sample",
            Self::Text => "is the base64 of a text and not of random bytes",
            Self::Pattern => "is the base64 of a pattern and not of random bytes",
        })
    }
}

/// Whether the bytes are so uniform that they can only be a mistake, such as a placeholder.
pub(super) fn is_placeholder(secret: &[u8]) -> bool {
    different(secret) < REFUSED_BELOW
}

/// Why `secret` can be guessed, if it can. Random bytes pass.
pub(super) fn weakness(secret: &[u8]) -> Option<Weakness> {
    if PUBLISHED.contains(&STANDARD.encode(secret).as_str()) {
        return Some(Weakness::Published);
    }
    if secret
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\n'))
    {
        return Some(Weakness::Text);
    }
    let repeats =
        (1..=secret.len() / 2).any(|period| secret[period..] == secret[..secret.len() - period]);
    let counts = secret
        .windows(3)
        .all(|bytes| bytes[1].wrapping_sub(bytes[0]) == bytes[2].wrapping_sub(bytes[1]));
    (repeats || counts || different(secret) < DOUBTFUL_BELOW).then_some(Weakness::Pattern)
}

fn different(secret: &[u8]) -> usize {
    secret.iter().collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::{PUBLISHED, Weakness, is_placeholder, weakness};

    #[test]
    fn a_secret_of_random_bytes_has_no_weakness() {
        for length in [24, 32, 64] {
            let mut secret = vec![0; length];
            getrandom::fill(&mut secret).unwrap();
            assert!(!is_placeholder(&secret));
            assert_eq!(weakness(&secret), None);
        }
    }

    #[test]
    fn a_secret_that_can_be_guessed_has_a_weakness() {
        for sample in PUBLISHED {
            let sample = STANDARD.decode(sample).unwrap();
            assert_eq!(weakness(&sample), Some(Weakness::Published));
        }
        assert_eq!(weakness(b"correct horse battery st"), Some(Weakness::Text));
        let counted: Vec<u8> = (200..).chain(0..).take(32).collect();
        let repeated = [0x80, 1, 0xfe, 3, 5, 7, 0x99, 11].repeat(4);
        for pattern in [counted, repeated] {
            assert!(!is_placeholder(&pattern));
            assert_eq!(weakness(&pattern), Some(Weakness::Pattern));
        }
        assert!(is_placeholder(&[0; 24]) && is_placeholder(&[1, 2, 3, 4].repeat(8)));
    }
}
