#!/usr/bin/env bash
# Starts a stack on free ports and sends storms in waves, the same rate to /sync and to /async, for
# the live page, whose address it prints. Ctrl-C ends it, and leaves nothing behind.
#   RATES   the requests per second of each wave, which begin anew after the last [20,40,80,40]
#   STORE   sqlite, or postgres for a PostgreSQL server of its own [sqlite]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

read_arguments '' "$@"
rates=${RATES:-20,40,80,40}
[[ $rates =~ ^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*$ ]] ||
    die "RATES=$rates: expected numbers from 1 to 9999 separated by commas, such as 20,80"

WAVE=20s
PAUSE=5

# One after the other, until it is stopped. It runs in a process of its own.
waves() {
    local number=0 rate
    while true; do
        for rate in ${rates//,/ }; do
            say "wave      $((++number)): $rate requests/s to /sync and $rate to /async"
            submit_in_vain
            # What a storm prints and how it ends is not shown: the page shows it.
            storm sync "$rate" &
            storm async "$rate" &
            wait
            sleep "$PAUSE"
        done
    done
}

#   storm MODE RATE
storm() {
    local listen=()
    [[ $1 == sync ]] || listen=(--listen "localhost:$callback_port")
    "$STORM_BIN/storm-loadgen" storm --mode "$1" --rate "$2" --duration "$WAVE" --records 10 \
        --api "$STORM_API" "${listen[@]}" >>"$STACK_DIR/storm.log" 2>&1 || true
}

# Jobs whose receiver does not listen: some failures to look at.
submit_in_vain() {
    local body
    body='{"records": 1, "report_name": "in vain", "callback_url": "http://localhost:'$dead_port'/"}'
    for _ in 1 2 3; do ask "$API_ADDR" POST /async "$body" >/dev/null 2>&1 || true; done
}

require_redis
need_binaries api worker loadgen
export CALLBACK_ALLOW=127.0.0.1/32,::1/128
dead_port=$(free_port 12000) callback_port=$(free_port 16000)
stack_start api worker
say "look at   $STORM_API/"
say "stop it with Ctrl-C"
stack_run waves
