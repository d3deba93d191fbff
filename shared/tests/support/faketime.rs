//! libfaketime, which stands between a program and the wall clock.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The library of the package `faketime`. Prints that nothing is tested if it is not installed.
pub(crate) fn library() -> Option<PathBuf> {
    let library = "faketime/libfaketimeMT.so.1";
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.path());
    let places = folders.chain(["/usr/lib".into(), "/usr/lib64".into()]);
    let found = places
        .map(|place| place.join(library))
        .find(|library| library.exists());
    if found.is_none() {
        // `println!` shows nothing of a test that passes.
        let _ = writeln!(
            io::stderr(),
            "skipped: the package `faketime` is not installed"
        );
    }
    found
}

/// The environment of a program whose clock is set by the file `clock`: `-30m` is half an hour
/// behind.
pub(crate) fn environment<'a>(library: &'a Path, clock: &'a Path) -> [(&'static str, &'a str); 4] {
    [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
}
