//! The API token, which is never shown.

use std::{convert::Infallible, fmt, str::FromStr};

use hyper::header::HeaderValue;

/// A token as it was given, not checked yet. No output or error message contains it.
#[derive(Clone)]
pub struct GivenToken(String);

impl GivenToken {
    /// The `authorization` header. An empty token counts as none, because scripts pass an unset
    /// variable on as an empty one.
    ///
    /// # Errors
    /// The token contains characters that tokens can't have.
    pub fn authorization(&self) -> Result<Option<HeaderValue>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let is_token = self.0.bytes().all(|byte| byte.is_ascii_graphic());
        let value = HeaderValue::from_str(&format!("Bearer {}", self.0));
        let mut value = value.ok().filter(|_| is_token).ok_or(
            "--token (or STORM_TOKEN) must contain only printable ASCII characters, without spaces",
        )?;
        // The Debug output of a sensitive header value omits its text.
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl FromStr for GivenToken {
    type Err = Infallible; // clap's error message would contain the token

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for GivenToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::GivenToken;

    #[test]
    fn a_token_is_sent_as_a_bearer_token_and_never_shown() {
        let given: GivenToken = "storm_secret".parse().unwrap();
        let value = given.authorization().unwrap().unwrap();
        assert_eq!(value, "Bearer storm_secret");
        assert!(!format!("{given:?} {value:?}").contains("secret"));
    }

    #[test]
    fn an_empty_token_is_none_and_an_invalid_token_is_refused_without_showing_it() {
        let none: GivenToken = "".parse().unwrap();
        assert_eq!(none.authorization(), Ok(None));
        for text in ["se cret", "secret\n", "sécret"] {
            let given: GivenToken = text.parse().unwrap();
            assert!(!given.authorization().unwrap_err().contains("cret"));
        }
    }
}
