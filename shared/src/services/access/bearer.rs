//! The token in a request's head.

use hyper::{HeaderMap, header::AUTHORIZATION};

/// The longest token that is looked at, in bytes: some seven times one of ours.
const LONGEST: usize = 512;

/// The token of `Authorization: Bearer <token>`; none where that is missing, twice there, or something else.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.as_bytes();
    let scheme = value.iter().position(|&byte| byte == b' ')?;
    let token = value[scheme..].trim_ascii();
    let is_token = value[..scheme].eq_ignore_ascii_case(b"bearer")
        && (1..=LONGEST).contains(&token.len())
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
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer t", "bearer t", "BEARER  t ", "bEARER t"] {
            assert_eq!(bearer(&headers(&[value])), Some(&b"t"[..]), "{value}");
        }
    }

    #[test]
    fn what_is_no_single_bounded_token_is_none() {
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
