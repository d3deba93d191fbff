#!/usr/bin/env bash
# A program that holds a port. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

# Listens on 127.0.0.1:PORT, with a Redis that is none of the test's.
#   listen_on PORT
listen_on() {
    local server
    server=$("$ROOT/scripts/find-tool.sh" redis-server)
    LC_ALL=C "$server" --bind 127.0.0.1 --port "$1" --save '' --appendonly no >/dev/null 2>&1 &
    LISTENER=$!
    until is_busy 127.0.0.1 "$1"; do
        kill -0 "$LISTENER" || die "nothing listens on port $1"
        sleep 0.05
    done
}

stop_listening() {
    kill "$LISTENER" 2>/dev/null || true
    wait "$LISTENER" 2>/dev/null || true
    LISTENER=''
}
