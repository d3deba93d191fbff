#!/usr/bin/env bash
# Tests the flake's sources: a build depends on its own project and on `shared`, and on nothing
# else.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../lib.sh"

fail() { die "FAILED: $*"; }

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'rm -rf "$work"' EXIT
git -C "$ROOT" ls-files -z | (cd -- "$ROOT" && tar --create --null --files-from -) | tar --extract --directory "$work"

# Prints the derivation of each program.
derivations() {
    local project
    for project in api loadgen worker; do
        "$ROOT/scripts/nix.sh" eval --raw "path:$work#packages.$system.$project.drvPath" 2>/dev/null ||
            fail "the flake does not evaluate"
        printf ' %s\n' "$project"
    done | sort
}

# An edit of FILE must change exactly the derivations of PROJECT...
#   rebuilds FILE PROJECT...
rebuilds() {
    local file=$1 after again
    shift
    cp "$work/$file" "$work/kept"
    echo ' ' >>"$work/$file"
    after=$(derivations)
    mv "$work/kept" "$work/$file"
    again=$(comm -13 <(echo "$before") <(echo "$after") | awk '{ print $2 }' | sort | tr '\n' ' ')
    [[ ${again% } == "$*" ]] ||
        fail "an edit of $file rebuilds: ${again:-nothing}; expected: ${*:-nothing}"
    echo "ok: an edit of $file rebuilds: ${*:-nothing}"
}

system=$("$ROOT/scripts/nix.sh" eval --raw --expr builtins.currentSystem)
before=$(derivations)
rebuilds README.md
rebuilds docker-compose.yml
rebuilds loadgen/src/main.rs loadgen
rebuilds api/Cargo.lock api
rebuilds shared/src/config/default.toml api loadgen worker
rebuilds shared/migrations/0002_leases.sql api loadgen worker
rebuilds .cargo/config.toml api loadgen worker
