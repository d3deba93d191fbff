#!/usr/bin/env bash
# Checks the dependencies of the four projects with cargo-deny: licences, bans and sources, as
# deny.toml has them, and security advisories if their database can be fetched.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

read_arguments '' "$@"

# The limit for fetching the database: without a network, some connections hang until they time out.
FETCH_SECONDS=60

# deny.toml is in the root.
cd -- "$ROOT"
"$ROOT/scripts/find-tool.sh" cargo >/dev/null
cargo_deny=$("$ROOT/scripts/find-tool.sh" cargo-deny)

# With all features: the images have them.
#   deny PROJECT ARGS...
deny() { "$cargo_deny" --locked --all-features --manifest-path "$1/Cargo.toml" "${@:2}"; }

checks=(bans licenses sources)
# All projects share one database.
if within "$FETCH_SECONDS" "$cargo_deny" --locked --manifest-path shared/Cargo.toml fetch db >/dev/null 2>&1; then
    checks+=(advisories)
else
    say "advisories are not checked: their database could not be fetched"
fi

status=0
for project in shared api worker loadgen; do
    if output=$(deny "$project" check --hide-inclusion-graph "${checks[@]}" 2>&1); then
        say "$project: ${output##*$'\n'}"
    else
        say "$output"
        say "$project: refused by deny.toml"
        status=1
    fi
done
exit "$status"
