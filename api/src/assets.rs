//! The files that browsers get: pages, their style and their scripts, embedded in the program.
//! And the description of the API, which the program makes.
//!
//! They hold no data, so they need no token and have no rate limit. [`File`] says how one is
//! served, and `TABLES` lists all of them.

mod docs;
mod ui;

use std::{io::Write as _, sync::LazyLock};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};
use warp::{
    Filter, Rejection, Reply as _,
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::Response,
};

use crate::reply::Problem;

/// Every file: a table for each page.
const TABLES: [&[File]; 2] = [&ui::FILES, &docs::FILES];

/// Nothing but our own files runs, and nothing is inline: text that a page shows can't be a script.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A file that is served at a path. Clients may keep it, and ask each time whether it is the same:
/// another release has other files at the same paths.
pub struct File {
    path: &'static str,
    kind: &'static str,
    text: Text,
}

enum Text {
    Embedded(&'static str),
    /// Made by the program, once.
    Made(fn() -> &'static str),
}

/// What is served of a file.
struct Prepared {
    kind: HeaderValue,
    plain: Representation,
    /// `None` if it is no smaller.
    gzip: Option<Representation>,
}

/// The bytes of a file in one coding, and their entity tag, which is strong.
struct Representation {
    body: Bytes,
    tag: HeaderValue,
}

/// Compressed once, by the first request for any of them: it takes milliseconds.
static PREPARED: LazyLock<Vec<Prepared>> = LazyLock::new(|| {
    let files = TABLES.into_iter().flatten();
    files.map(Prepared::of).collect()
});

impl File {
    /// The file at `path`, of the media type `kind`.
    pub const fn new(path: &'static str, kind: &'static str, text: &'static str) -> Self {
        Self {
            path,
            kind,
            text: Text::Embedded(text),
        }
    }

    /// JSON that the program makes: always the same.
    pub const fn json(path: &'static str, make: fn() -> &'static str) -> Self {
        Self {
            path,
            kind: "application/json",
            text: Text::Made(make),
        }
    }

    /// An HTML page.
    pub const fn page(path: &'static str, text: &'static str) -> Self {
        Self::new(path, "text/html; charset=utf-8", text)
    }

    /// A style sheet.
    pub const fn style(path: &'static str, text: &'static str) -> Self {
        Self::new(path, "text/css; charset=utf-8", text)
    }

    /// A script, or a module of scripts.
    pub const fn script(path: &'static str, text: &'static str) -> Self {
        Self::new(path, "text/javascript; charset=utf-8", text)
    }

    fn text(&self) -> &'static str {
        match self.text {
            Text::Embedded(text) => text,
            Text::Made(make) => make(),
        }
    }
}

impl Prepared {
    fn of(file: &File) -> Self {
        let plain = Bytes::from_static(file.text().as_bytes());
        let digest: [u8; 32] = Sha256::digest(&plain).into();
        // Half of it is enough.
        let half = digest.first_chunk().copied().unwrap_or_default();
        let digest = format!("{:032x}", u128::from_be_bytes(half));
        let gzip = gzip(&plain).filter(|gzip| gzip.len() < plain.len());
        Self {
            kind: HeaderValue::from_static(file.kind),
            // Each coding has its own tag: a strong one stands for the bytes.
            gzip: gzip.map(|body| Representation::new(body, &format!("\"{digest}-gzip\""))),
            plain: Representation::new(plain, &format!("\"{digest}\"")),
        }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let gzip = self.gzip.as_ref().filter(|_| accepts_gzip(headers));
        let Representation { body, tag } = gzip.unwrap_or(&self.plain);
        let is_known = is_known(headers, tag);
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            Response::new(body.clone().into())
        };
        let fields = response.headers_mut();
        if !is_known {
            fields.insert(header::CONTENT_TYPE, self.kind.clone());
            if gzip.is_some() {
                fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        fields.insert(header::ETAG, tag.clone());
        for (name, value) in [
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        fields.insert(header::CONTENT_SECURITY_POLICY, POLICY);
        response
    }
}

impl Representation {
    #[expect(clippy::expect_used, reason = "a tag is hexadecimal digits")]
    fn new(body: Bytes, tag: &str) -> Self {
        let tag = HeaderValue::from_str(tag).expect("visible ASCII is a valid header value");
        Self { body, tag }
    }
}

/// `None` if it can't be compressed, which is served as it is.
fn gzip(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// A file that a request asks for. The authentication layer attaches it to the request.
#[derive(Clone, Copy)]
pub struct Asset(&'static Prepared);

impl Asset {
    /// The file at this path.
    pub fn at(path: &str) -> Option<Self> {
        // First in the tables: nothing is compressed for other paths.
        PREPARED.get(place(path)?).map(Self)
    }
}

/// Whether a file is served at this path.
pub fn is_asset(path: &str) -> bool {
    place(path).is_some()
}

/// Where the file at this path is in the tables, and in [`PREPARED`].
fn place(path: &str) -> Option<usize> {
    let mut files = TABLES.into_iter().flatten();
    files.position(|file| file.path == path)
}

/// Serves the files. Matches only requests with an [`Asset`].
pub fn assets() -> impl Filter<Extract = (Response,), Error = Rejection> + Copy {
    // Not by `warp::path::full`, which panics at the target of a CONNECT: it is no path.
    warp::ext::get()
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .map(|Asset(file), method, headers| match method {
            // hyper omits the body for HEAD.
            Method::GET | Method::HEAD => file.answer(&headers),
            _ => Problem::method_not_allowed("GET, HEAD").into_response(),
        })
}

/// Whether the client has the representation with this tag already (`If-None-Match`, RFC 9110).
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    elements(headers, &header::IF_NONE_MATCH).any(|known| {
        // Weakly compared: a proxy that changes the coding may have made the tag a weak one.
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

/// Whether the client takes gzip (`Accept-Encoding`, RFC 9110). Its own element rules over `*`.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for element in elements(headers, &header::ACCEPT_ENCODING) {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let is_accepted = parts
            .filter_map(|it| it.split_once('='))
            .filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .all(|(_, weight)| weight.trim().parse::<f32>().is_ok_and(|it| it > 0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            return is_accepted;
        }
        any |= coding == "*" && is_accepted;
    }
    any
}

/// The elements of a list in a header field, over all of its lines.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Read as _};

    use flate2::read::GzDecoder;
    use hyper::HeaderMap;
    use warp::http::{HeaderValue, StatusCode, header};

    use super::{PREPARED, TABLES, accepts_gzip, is_known};

    #[test]
    fn every_path_is_there_once_and_its_gzip_is_its_text() {
        let mut paths = HashSet::new();
        for (prepared, file) in PREPARED.iter().zip(TABLES.into_iter().flatten()) {
            assert!(paths.insert(file.path), "{} twice", file.path);
            assert!(file.path.starts_with('/'), "{}", file.path);
            let Some(gzip) = &prepared.gzip else {
                continue;
            };
            let mut text = String::new();
            let mut decoder = GzDecoder::new(&gzip.body[..]);
            decoder.read_to_string(&mut text).unwrap();
            assert_eq!(text, file.text(), "{}", file.path);
            assert_ne!(gzip.tag, prepared.plain.tag, "{}", file.path);
        }
        assert!(PREPARED.iter().any(|file| file.gzip.is_some()));
    }

    /// The policy forbids both, so such a page would be broken.
    #[test]
    fn no_page_has_an_inline_script_style_or_handler_or_names_another_host() {
        for file in TABLES.into_iter().flatten() {
            let text = file.text().to_ascii_lowercase();
            if !file.kind.starts_with("text/html") {
                continue;
            }
            for tag in text.split("<script").skip(1) {
                let (attributes, rest) = tag.split_once('>').unwrap();
                assert!(attributes.contains("src=\"/"), "{}", file.path);
                assert!(rest.starts_with("</script>"), "{}", file.path);
            }
            for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
                assert!(!text.contains(inline), "{} has {inline}", file.path);
            }
            for elsewhere in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
                assert!(!text.contains(elsewhere), "{} has {elsewhere}", file.path);
            }
        }
    }

    #[test]
    fn gzip_is_served_where_the_client_accepts_it() {
        for (accept, accepts) in [
            (&["gzip"][..], true),
            (&["GZIP"], true),
            (&["x-gzip"], true),
            (&["deflate, gzip;q=0.5, br"], true),
            (&["br", "gzip"], true),
            (&["*"], true),
            (&["*;q=0.1"], true),
            (&[], false),
            (&[""], false),
            (&["br, identity"], false),
            (&["gzip;q=0"], false),
            (&["gzip; Q=0.000"], false),
            (&["gzip;q=0, *"], false),
            (&["*, gzip;q=0"], false),
            (&["gzip;q=high"], false),
            (&["*;q=0"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in accept {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(accepts_gzip(&headers), accepts, "{accept:?}");
        }
    }

    #[test]
    fn a_tag_is_known_in_a_list_weak_or_by_a_star() {
        let tag = HeaderValue::from_static("\"a1\"");
        for (line, known) in [
            ("\"a1\"", true),
            ("W/\"a1\"", true),
            ("\"b\", \"a1\"", true),
            ("*", true),
            ("\"a1-gzip\"", false),
            ("a1", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(line));
            assert_eq!(is_known(&headers, &tag), known, "{line}");
        }
        assert!(!is_known(&HeaderMap::new(), &tag));
    }

    #[test]
    fn a_known_file_is_answered_without_its_body() {
        for file in PREPARED.iter() {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, file.plain.tag.clone());
            let answer = file.answer(&headers);
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
            assert!(!answer.headers().contains_key(header::CONTENT_TYPE));
            assert!(answer.headers().contains_key(header::CACHE_CONTROL));
        }
    }
}
