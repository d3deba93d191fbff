use hyper::header::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};

use super::{
    ID, KeyError, KeyFault, MAX_SECRETS, SIGNATURE, SignatureError, Signer, TIMESTAMP, TOLERANCE,
    Verifier,
};

/// The secret of the published libraries' test vectors, 24 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Another secret, 32 bytes.
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=";
/// The ed25519 seed of the published libraries' test vectors.
const SEED: &str = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";

const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const BODY: &[u8] = br#"{"test": 2432232314}"#;

fn sent() -> Timestamp {
    Timestamp::from_second(1_614_265_330).unwrap()
}

fn signer(secrets: &str) -> Signer {
    Signer::parse(secrets).unwrap()
}

/// The headers of a callback signed with `secrets`.
fn headers(secrets: &str) -> HeaderMap {
    let signature = signer(secrets).sign(MESSAGE, sent(), BODY).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(ID, HeaderValue::from_static(MESSAGE));
    headers.insert(TIMESTAMP, sent().as_second().into());
    headers.insert(SIGNATURE, signature.try_into().unwrap());
    headers
}

/// Verifies a callback with `keys` in the second in which it was sent.
fn verified(keys: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), SignatureError> {
    let verifier = Verifier::parse(keys).unwrap();
    verifier.verify(headers, body, sent()).map(drop)
}

fn public_of_seed() -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    let seed = STANDARD
        .decode(SEED.strip_prefix("whsk_").unwrap())
        .unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    STANDARD.encode(pair.public_key())
}

#[test]
fn signatures_equal_the_published_libraries_test_vectors() {
    for (secret, signature) in [
        (SECRET, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (
            SEED,
            "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
        ),
    ] {
        let signed = signer(secret).sign(MESSAGE, sent(), BODY);
        assert_eq!(signed.as_deref(), Some(signature), "{secret}");
    }
}

#[test]
fn a_receiver_with_any_one_of_the_secrets_verifies() {
    let public = format!("whpk_{}", public_of_seed());
    let signed = headers(&format!("{SECRET}, {OTHER}\n{SEED}"));
    for keys in [SECRET, OTHER, SEED, &public, &format!("{public} {OTHER}")] {
        assert_eq!(verified(keys, &signed, BODY), Ok(()), "{keys}");
    }
}

#[test]
fn secrets_can_be_replaced_without_rejecting_a_callback() {
    let (before, during, after) = (
        headers(SECRET),
        headers(&format!("{OTHER} {SECRET}")),
        headers(OTHER),
    );
    let wrong = Err(SignatureError::Wrong);
    for (keys, before_ok, after_ok) in [
        (SECRET.to_owned(), Ok(()), wrong.clone()),
        (OTHER.to_owned(), wrong, Ok(())),
        (format!("{SECRET},{OTHER}"), Ok(()), Ok(())),
    ] {
        assert_eq!(verified(&keys, &before, BODY), before_ok);
        assert_eq!(verified(&keys, &during, BODY), Ok(()));
        assert_eq!(verified(&keys, &after, BODY), after_ok);
    }
}

#[test]
fn signatures_are_in_the_order_of_the_secrets() {
    let sign = |secrets: &str| signer(secrets).sign(MESSAGE, sent(), BODY).unwrap();
    let (first, second, third) = (sign(OTHER), sign(SEED), sign(SECRET));
    let all = sign(&format!("{OTHER} {SEED} {SECRET}"));
    assert_eq!(all, format!("{first} {second} {third}"));
}

#[test]
fn a_callback_that_was_changed_is_rejected() {
    for keys in [SECRET, SEED] {
        let right = headers(keys);
        assert_eq!(verified(keys, &right, BODY), Ok(()));
        assert_eq!(
            verified(keys, &right, br#"{"test": 2432232315}"#),
            Err(SignatureError::Wrong)
        );
        for (name, value) in [
            (ID, "msg_p5jXN8AQM9LWM0D4loKWxJel"),
            (TIMESTAMP, "1614265331"),
            (SIGNATURE, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF="),
        ] {
            let mut changed = right.clone();
            changed.insert(&name, value.parse().unwrap());
            let result = verified(keys, &changed, BODY);
            assert_eq!(result, Err(SignatureError::Wrong), "{name}");
        }
    }
}

#[test]
fn a_signature_is_not_valid_under_another_version() {
    for (keys, from, to) in [(SECRET, "v1,", "v1a,"), (SEED, "v1a,", "v1,")] {
        let mut changed = headers(keys);
        let signature = changed[SIGNATURE].to_str().unwrap().replace(from, to);
        changed.insert(SIGNATURE, signature.parse().unwrap());
        assert_eq!(verified(keys, &changed, BODY), Err(SignatureError::Wrong));
    }
}

#[test]
fn unknown_versions_and_truncated_signatures_are_skipped() {
    let mut signed = headers(SECRET);
    let right = signed[SIGNATURE].to_str().unwrap().to_owned();
    for (signatures, accepted) in [
        (format!("v2,AAAA v1, v1 {right}"), true),
        (format!("{right} {right}"), true),
        (right.replace("v1,", ""), false),
        (right.replace("v1,", "v1 "), false),
        (right.trim_end_matches('=').to_owned(), false),
        (right[..20].to_owned(), false),
        ("v1,".to_owned(), false),
        (String::new(), false),
        (format!("{}{right}", "v1,AAAA ".repeat(1000)), false),
    ] {
        signed.insert(SIGNATURE, signatures.parse().unwrap());
        assert_eq!(
            verified(SECRET, &signed, BODY).is_ok(),
            accepted,
            "{signatures}"
        );
    }
}

#[test]
fn a_missing_or_repeated_header_is_rejected() {
    for name in [ID, TIMESTAMP, SIGNATURE] {
        let error = Err(SignatureError::Header(name.clone()));
        let mut without = headers(SECRET);
        let value = without.remove(&name).unwrap();
        assert_eq!(verified(SECRET, &without, BODY), error);
        let mut twice = headers(SECRET);
        twice.append(&name, value);
        assert_eq!(verified(SECRET, &twice, BODY), error);
    }
}

#[test]
fn a_timestamp_is_accepted_within_five_minutes_of_the_receivers_clock() {
    let (verifier, signed) = (Verifier::parse(SECRET).unwrap(), headers(SECRET));
    let tolerance = SignedDuration::try_from(TOLERANCE).unwrap();
    let second = SignedDuration::from_secs(1);
    for (clock, accepted) in [
        (sent() + tolerance, true),
        (sent() - tolerance, true),
        (sent() + tolerance + second, false),
        (sent() - tolerance - second, false),
        (Timestamp::MAX, false),
        (Timestamp::MIN, false),
    ] {
        let result = verifier.verify(&signed, BODY, clock);
        let stale = result == Err(SignatureError::Stale);
        assert_eq!((result.is_ok(), stale), (accepted, !accepted), "{clock}");
    }
}

#[test]
fn a_timestamp_that_is_not_a_number_of_seconds_is_rejected() {
    let mut signed = headers(SECRET);
    for timestamp in [
        "",
        "now",
        "-1",
        "+1614265330",
        "01614265330",
        "1614265330.0",
        "99999999999999999999",
    ] {
        signed.insert(TIMESTAMP, timestamp.parse().unwrap());
        let result = verified(SECRET, &signed, BODY);
        assert_eq!(result, Err(SignatureError::Timestamp), "{timestamp}");
    }
}

#[test]
fn without_secrets_nothing_is_signed_or_accepted() {
    for nothing in ["", " \t\n "] {
        assert_eq!(signer(nothing).sign(MESSAGE, sent(), BODY), None);
        assert_eq!(
            verified(nothing, &headers(SECRET), BODY),
            Err(SignatureError::Wrong)
        );
    }
    assert_eq!(Signer::none().secrets(), 0);
}

#[test]
fn the_error_for_a_secret_has_its_number_and_what_is_accepted() {
    let of = |prefix: &str, bytes: usize| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        format!("{prefix}{}", STANDARD.encode(vec![7; bytes]))
    };
    let seed = SEED.strip_prefix("whsk_").unwrap();
    for (bad, fault) in [
        ("topsecret".to_owned(), KeyFault::Prefix),
        (
            "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            KeyFault::Prefix,
        ),
        (format!("{SECRET}="), KeyFault::Base64),
        (SECRET.replace('8', "-"), KeyFault::Base64),
        (of("whsec_", 23), KeyFault::HmacLength(23)),
        (of("whsec_", 65), KeyFault::HmacLength(65)),
        ("whsec_".to_owned(), KeyFault::HmacLength(0)),
        (of("whsk_", 31), KeyFault::SeedLength(31)),
        (of("whsk_", 65), KeyFault::SeedLength(65)),
        (of("whsk_", 64), KeyFault::Pair),
        (format!("whpk_{}", public_of_seed()), KeyFault::Public),
        (of("whpk_", 31), KeyFault::PublicLength(31)),
    ] {
        let error = Signer::parse(&format!("{OTHER},{bad}")).unwrap_err();
        assert_eq!(error, KeyError::Key { number: 2, fault }, "{bad}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("the 2nd key"), "{text}");
        for secret in [bad.as_str(), OTHER, seed] {
            let secret = secret.split('_').next_back().unwrap();
            assert!(secret.is_empty() || !text.contains(secret), "{text}");
        }
    }
    let random = |bytes: usize| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let mut secret = vec![0; bytes];
        getrandom::fill(&mut secret).unwrap();
        format!("whsec_{}", STANDARD.encode(secret))
    };
    for bytes in [24, 32, 64] {
        assert!(Signer::parse(&random(bytes)).is_ok());
    }
    let mut many: Vec<_> = (0..=MAX_SECRETS).map(|_| random(32)).collect();
    let error = Signer::parse(&many.join(" ")).unwrap_err();
    assert_eq!(error, KeyError::TooMany(11));
    many.pop();
    assert_eq!(signer(&many.join(" ")).secrets(), 10);
}

#[test]
fn a_placeholder_and_the_same_key_twice_are_refused() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let refused = |text: &str| match Signer::parse(text).unwrap_err() {
        KeyError::Key { number, fault } => (number, fault),
        other => panic!("{other}"),
    };
    let placeholder = format!("{SECRET} whsec_{}", STANDARD.encode([b'x'; 32]));
    assert_eq!(refused(&placeholder), (2, KeyFault::Placeholder));
    let twice = format!("{SECRET},{OTHER}\n{SECRET}");
    assert_eq!(refused(&twice), (3, KeyFault::Repeated));
    // A receiver that knows a `whsec_` must not know a private key by that.
    let shared = format!("{SEED} {}", SEED.replace("whsk_", "whsec_"));
    assert_eq!(refused(&shared), (2, KeyFault::Repeated));
}

#[test]
fn a_secret_that_can_be_guessed_is_named_by_its_number() {
    let signer = signer(&format!("{SECRET} {SEED}"));
    let expected = [
        "the 1st key is a published sample",
        "the 2nd key is a published sample",
    ];
    assert_eq!(signer.weaknesses(), expected);
}

#[test]
fn a_seed_followed_by_its_public_key_signs_like_the_seed() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let decode = |text: &str| STANDARD.decode(text).unwrap();
    let both = [
        decode(SEED.strip_prefix("whsk_").unwrap()),
        decode(&public_of_seed()),
    ]
    .concat();
    let both = signer(&format!("whsk_{}", STANDARD.encode(both)));
    let sign = |signer: &Signer| signer.sign(MESSAGE, sent(), BODY);
    assert_eq!(sign(&both), sign(&signer(SEED)));
}

#[test]
fn debug_output_shows_no_secret() {
    let all = format!("{SECRET} {SEED}");
    let shown = format!("{:?} {:?}", signer(&all), Verifier::parse(&all).unwrap());
    assert_eq!(shown, "Signer(2 secrets) Verifier(2 keys)");
}
