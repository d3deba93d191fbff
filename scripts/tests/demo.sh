#!/usr/bin/env bash
# Tests demo.sh without Redis: it says so in one line and runs without one. The services are stubs
# that record their REDIS_URL and exit, so only the start of the demo is tested.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/path.sh"
read_arguments '' "$@"
make_work

# Neither a Redis nor a package manager that could install one.
path_without "$work/path" redis-server valkey-server apt-get dnf apk pacman zypper brew
mkdir "$work/bin"

for service in api worker loadgen; do
    # shellcheck disable=SC2016 # the stub expands it
    printf '#!/bin/sh\necho "$REDIS_URL" >>"%s/redis-urls"\nexit 1\n' "$work" >"$work/bin/storm-$service"
    chmod +x "$work/bin/storm-$service"
done

# Leaves its output in $work/output and the services' REDIS_URL in $work/redis-urls.
#   demo [VARIABLE=VALUE]...
demo() {
    : >"$work/redis-urls"
    env -u REDIS_URL -u REDIS_SERVER STORM_BIN="$work/bin" PATH="$work/path" \
        CALLBACK_PORT="$(free_port 12000)" "$@" "$ROOT/scripts/demo.sh" >"$work/output" 2>&1 || true
}

#   printed TEXT
printed() { grep -qF -- "$1" "$work/output" || fail "it did not print: $1"; }

# Every service must have been started with REDIS_URL=VALUE.
#   redis_url_was VALUE
redis_url_was() {
    [[ -s $work/redis-urls ]] || fail 'no service was started'
    ! grep -qvxF -- "$1" "$work/redis-urls" || fail "REDIS_URL was $(cat "$work/redis-urls"), and not $1"
}

test='without an installable Redis the demo says so and runs without one'
demo
printed 'redis-server is not installed'
printed 'no Redis is available: the demo runs without one, as with REDIS_URL=none'
redis_url_was none
echo "ok: $test"

test='with REDIS_URL=none no Redis is looked for'
demo REDIS_URL=none
printed 'redis     none (REDIS_URL): the workers poll the table'
! grep -qF 'not installed' "$work/output" || fail 'it looked for a Redis'
redis_url_was none
echo "ok: $test"

test='a REDIS_SERVER that is not a program is an error, without a fallback'
demo REDIS_SERVER="$work/nothing"
printed "REDIS_SERVER=$work/nothing is not an executable program"
[[ ! -s $work/redis-urls ]] || fail 'the services were started'
echo "ok: $test"
