//! The description of the API, for programs: at `/openapi.json`.

use super::File;
use crate::openapi;

/// The files.
pub(super) static FILES: [File; 1] = [File::json("/openapi.json", openapi::text)];
