#!/usr/bin/env bash
# The promise of demo.sh where no Redis can be had: it says so in one line, and goes without.
# The services are stand-ins that note what they are told and die: what is shown is what comes before.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$ROOT/scripts/tests/support/path.sh"

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Neither a Redis nor what could install one.
path_without "$work/path" redis-server valkey-server apt-get dnf apk pacman zypper brew
mkdir "$work/bin"

for service in api worker loadgen; do
    # shellcheck disable=SC2016 # the stand-in expands it
    printf '#!/bin/sh\necho "$REDIS_URL" >>"%s/told"\nexit 1\n' "$work" >"$work/bin/storm-$service"
    chmod +x "$work/bin/storm-$service"
done

#   demo [VARIABLE=VALUE]...      leaves what it said in $work/output, what it told the services in $work/told
demo() {
    : >"$work/told"
    env -u REDIS_URL -u REDIS_SERVER STORM_BIN="$work/bin" PATH="$work/path" CALLBACK_PORT="$(free_port)" "$@" \
        "$ROOT/scripts/demo.sh" >"$work/output" 2>&1 || true
}

free_port() (
    # shellcheck source-path=SCRIPTDIR source=../lib.sh
    source "$ROOT/scripts/lib.sh"
    free_port 12000
)

#   said TEXT
said() { grep -qF -- "$1" "$work/output" || fail "it did not say: $1"; }

#   told VALUE      what every service found in REDIS_URL
told() {
    [[ -s $work/told ]] || fail 'no service was started'
    ! grep -qvxF -- "$1" "$work/told" || fail "a service was told: $(cat "$work/told"), and not $1"
}

fail() {
    echo "FAILED: $test: $1; it said:"
    cat "$work/output"
    exit 1
}

test='where no Redis can be had the demo says so and goes without'
demo
said 'redis-server is not installed'
said 'no Redis can be had here: the demo goes on without, as with REDIS_URL=none'
told none
echo "ok: $test"

test='REDIS_URL=none is taken as it is'
demo REDIS_URL=none
said 'redis     none, as REDIS_URL says: the table is polled'
! grep -qF 'not installed' "$work/output" || fail 'it looked for one'
told none
echo "ok: $test"

test='a REDIS_SERVER that is no program is an error, and nothing is fallen back to'
demo REDIS_SERVER="$work/nothing"
said "REDIS_SERVER=$work/nothing is no program that can be run"
[[ ! -s $work/told ]] || fail 'the services were started'
echo "ok: $test"
