#!/usr/bin/env bash
# Tests check-drift.sh: it passes the manifests as they are, and names every kind of drift.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work

copy_projects() {
    local project
    for project in shared api worker loadgen; do
        mkdir -p "$work/$project"
        cp "$ROOT/$project"/Cargo.{toml,lock} "$work/$project/"
    done
}

# Changes a fresh copy. The check must fail, and name both the subject and the file.
#   catches SUBJECT FILE SED_SCRIPT
catches() {
    local output
    copy_projects
    sed -i.before "$3" "$work/$2"
    ! cmp -s "$work/$2" "$work/$2.before" || fail "$1: the script changed nothing in $2: $3"
    if output=$("$ROOT/scripts/check-drift.sh" "$work"); then fail "$1: the drift was not detected: $2, $3"; fi
    [[ $output == *"$1"* && $output == *"$2"* ]] || fail "$1: the drift was not named: $output"
    echo "ok: drift of $1"
}

copy_projects
"$ROOT/scripts/check-drift.sh" "$work" || fail 'no drift: the manifests have drifted'
echo "ok: no drift"

catches 'edition' api/Cargo.toml 's/^edition = .*/edition = "2021"/'
catches 'rust-version' worker/Cargo.toml '/^rust-version/d'
catches 'version' loadgen/Cargo.toml 's/^version = .*/version = "9.9.9"/'
catches '[lints.rust] unsafe_code' shared/Cargo.toml 's/^unsafe_code = .*/unsafe_code = "allow"/'
catches '[lints.clippy] todo' api/Cargo.toml '/^todo = /d'
catches '[profile.release] lto' worker/Cargo.toml '1i [profile.release]\nlto = true'
catches 'serde' api/Cargo.toml 's/^serde = .*/serde = "1"/'
catches 'tokio' loadgen/Cargo.toml 's/^tokio = .*/tokio = "1"/'
catches 'tokio' worker/Cargo.toml '/^\[dev-dependencies\]/,/^\[lints/s/^tokio = .*/tokio = "1"/'
catches 'storm-shared' worker/Cargo.toml 's/^storm-shared = .*/storm-shared = { path = "..\/shared", features = ["x"] }/'
catches 'tokio' shared/Cargo.toml 's/^tokio = \(.*\)\[/tokio = \1[\n    "full",\n    /'
catches 'one line' api/Cargo.toml '1i [dependencies.url]\nversion = "2"'
catches 'tokio 1.x' loadgen/Cargo.lock '/^name = "tokio"$/{n;s/.*/version = "1.0.0"/;}'
