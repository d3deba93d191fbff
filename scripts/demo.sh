#!/usr/bin/env bash
# The show: 50 requests at once to /sync, the same to /async, and the difference. Its status is the demo's.
#   scripts/demo.sh            callbacks arrive on port 8001, or on CALLBACK_PORT
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

port=${CALLBACK_PORT:-8001}
unset CALLBACK_PORT # it is no setting of the services

# Now, and not after minutes of building.
if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
    die "CALLBACK_PORT=$port: expected a port from 1 to 65535"
fi
if is_busy 127.0.0.1 "$port" || is_busy ::1 "$port"; then
    die "port $port is taken by another program: choose another, for example make demo CALLBACK_PORT=$((port + 1))"
fi

# Without Redis the show is the same, for the table alone will do. A wrong REDIS_SERVER stays an error.
if [[ -z ${REDIS_URL:-}${REDIS_SERVER:-} ]] && ! "$ROOT/scripts/find-tool.sh" redis-server >/dev/null; then
    say "no Redis can be had here: the demo goes on without, as with REDIS_URL=none"
    export REDIS_URL=none
fi

need_binaries api worker loadgen
export CALLBACK_ALLOW=127.0.0.1/32,::1/128
stack_start api worker
stack_run "$STORM_BIN/storm-loadgen" demo --api "$STORM_API" --listen "localhost:$port" \
    --callback-url "http://localhost:$port/webhook" --json "$ROOT/target/demo.json"
