//! The live page: at `/`, and what it loads below `/ui`.

use storm_shared::{palette, uplot};

use super::File;

/// The files of the live page.
pub(super) static FILES: [File; 13] = [
    File::page("/", include_str!("../../assets/ui/page.html")),
    File::style("/ui/palette.css", palette::STYLE),
    File::style("/ui/page.css", include_str!("../../assets/ui/page.css")),
    File::script("/ui/page.mjs", include_str!("../../assets/ui/page.mjs")),
    File::script("/ui/dom.mjs", include_str!("../../assets/ui/dom.mjs")),
    File::script("/ui/plots.mjs", include_str!("../../assets/ui/plots.mjs")),
    File::script(
        "/ui/request.mjs",
        include_str!("../../assets/ui/request.mjs"),
    ),
    File::script("/ui/stream.mjs", include_str!("../../assets/ui/stream.mjs")),
    File::script("/ui/tables.mjs", include_str!("../../assets/ui/tables.mjs")),
    File::script("/ui/token.mjs", include_str!("../../assets/ui/token.mjs")),
    File::script("/ui/uplot.js", uplot::SCRIPT),
    File::style("/ui/uplot.css", uplot::STYLE),
    File::new(
        "/ui/uplot-license.txt",
        "text/plain; charset=utf-8",
        uplot::LICENSE,
    ),
];
