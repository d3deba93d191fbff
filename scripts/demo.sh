#!/usr/bin/env bash
# Sends 50 requests at once to /sync and the same to /async, and compares them. Writes the figures
# to target/demo.json and a report with plots to target/demo.html, whose path is the last line.
# Exits with the status of `storm-loadgen demo`.
#   CALLBACK_PORT   the port that receives the callbacks [8001]
#   STORE           sqlite, or postgres for a PostgreSQL server of its own [sqlite]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

read_arguments '' "$@"
port=${CALLBACK_PORT:-8001}
unset CALLBACK_PORT # not a setting of the services

# Checked now, because the build may take minutes.
if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
    die "CALLBACK_PORT=$port: expected a port from 1 to 65535"
fi
if is_busy 127.0.0.1 "$port" || is_busy ::1 "$port"; then
    die "port $port is taken by another program: choose another: make demo CALLBACK_PORT=$((port + 1))"
fi

require_redis
# Without Redis the workers poll the table, and the demo shows the same. A wrong REDIS_SERVER stays
# an error.
if [[ -z ${REDIS_URL:-}${REDIS_SERVER:-} ]] && ! "$ROOT/scripts/find-tool.sh" redis-server >/dev/null; then
    say "no Redis is available: the demo runs without one, as with REDIS_URL=none"
    export REDIS_URL=none
fi

need_binaries api worker loadgen
export CALLBACK_ALLOW=127.0.0.1/32,::1/128
stack_start api worker
report=$ROOT/target/demo.html status=0
begun=$STACK_DIR/begun
: >"$begun"
stack_run "$STORM_BIN/storm-loadgen" demo --api "$STORM_API" --listen "localhost:$port" \
    --callback-url "http://localhost:$port/webhook" --json "$ROOT/target/demo.json" \
    --html "$report" || status=$?
# That of an earlier demo is not this one's.
[[ ! $report -nt $begun ]] || say "report    ${report#"$ROOT"/}"
exit "$status"
