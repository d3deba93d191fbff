//! The bearer token of a request (RFC 6750).

use hyper::{HeaderMap, header::AUTHORIZATION};

/// The longest token that is accepted, in bytes. Our own have 70.
const MAX_TOKEN: usize = 512;

/// The token of `Authorization: Bearer <token>`. `None` if the header is missing, repeated, or has
/// another scheme or an invalid token.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    // Of two headers, a proxy may have checked the other one.
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.as_bytes();
    let scheme = value.iter().position(|&byte| byte == b' ')?;
    let token = value[scheme..].trim_ascii();
    // The scheme's case does not matter (RFC 9110, section 11.1).
    let is_token = value[..scheme].eq_ignore_ascii_case(b"bearer")
        && (1..=MAX_TOKEN).contains(&token.len())
        && token.iter().all(u8::is_ascii_graphic);
    is_token.then_some(token)
}

#[cfg(test)]
mod tests {
    use hyper::{
        HeaderMap,
        header::{AUTHORIZATION, HeaderValue},
    };

    use super::bearer;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_str(value));
        values
            .map(|value| (AUTHORIZATION, value.unwrap()))
            .collect()
    }

    #[test]
    fn the_scheme_is_case_insensitive() {
        for value in ["Bearer t", "bearer t", "BEARER  t ", "bEARER t"] {
            assert_eq!(bearer(&headers(&[value])), Some(&b"t"[..]), "{value}");
        }
    }

    #[test]
    fn anything_but_a_single_token_of_limited_length_is_ignored() {
        let long = format!("Bearer {}", "t".repeat(513));
        for values in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer\tt"],
            &["Basic dDp0"],
            &["Bearert"],
            &["t"],
            &[long.as_str()],
            &["Bearer t", "Bearer t"],
        ] {
            assert_eq!(bearer(&headers(values)), None, "{values:?}");
        }
    }
}
