//! The description of the API: for programs at `/openapi.json`, and for people at `/docs`.

use super::File;
use crate::openapi;

/// The files.
pub(super) static FILES: [File; 7] = [
    File::json("/openapi.json", openapi::text),
    File::page("/docs", include_str!("../../assets/docs/page.html")),
    File::style("/docs/page.css", include_str!("../../assets/docs/page.css")),
    File::script("/docs/page.mjs", include_str!("../../assets/docs/page.mjs")),
    File::script("/docs/dom.mjs", include_str!("../../assets/docs/dom.mjs")),
    File::script(
        "/docs/request.mjs",
        include_str!("../../assets/docs/request.mjs"),
    ),
    File::script(
        "/docs/schema.mjs",
        include_str!("../../assets/docs/schema.mjs"),
    ),
];
