#!/usr/bin/env bash
# Tests that cargo compiles `shared`, and what it depends on, once for the three programs: in the
# build of each of them, these crates have the same features.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work

# Prints each crate of a project's build with its version and its features.
#   crates PROJECT
crates() {
    cargo tree --locked --manifest-path "$ROOT/$1/Cargo.toml" --edges normal,build --prefix none \
        --no-dedupe --format '{p} {f}' | sed 's/ (proc-macro)//' | grep -v '(/' | sort -u
}

crates shared >"$work/shared"
for program in api worker loadgen; do
    crates "$program" >"$work/$program"
    differing=$(comm -23 "$work/shared" "$work/$program")
    [[ -z $differing ]] || fail "a crate has other features in the build of $program than in that of
shared, so it is compiled once more, with all that depends on it:
$differing
make the features the same in shared/Cargo.toml"
    echo "ok: $program builds $(wc -l <"$work/shared") crates of shared as they are"
done
