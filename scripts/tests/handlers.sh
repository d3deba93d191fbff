#!/usr/bin/env bash
# Tests the examples of docs/HANDLERS.md: each endpoint of docs/examples/handlers verifies who asks,
# does the work of a key once, and serves a handler of a real stack; so does the worker with code of
# its own. An endpoint without its toolchain on this machine is skipped, and a line says so.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work
cd -- "$ROOT"

endpoint=''
stop_endpoint() {
    [[ -z $endpoint ]] || { kill -- "-$endpoint" && wait "$endpoint"; } 2>/dev/null || true
    endpoint=''
}
clean_up() { stop_endpoint; }

OLD=$(new_secret) NEW=$(new_secret)

# Starts an endpoint with KEYS, and waits until it prints its URL.
#   start KEYS COMMAND...
start() {
    local keys=$1 try
    shift
    stop_endpoint
    rm -rf "$work/results"
    : >"$work/output"
    set -m
    HANDLER_SECRETS=$keys PORT=0 RESULTS=$work/results WORK_SECONDS=0.1 "$@" \
        >"$work/output" 2>&1 </dev/null &
    endpoint=$!
    set +m
    for try in {1..1200}; do
        url=$(sed -n 's/^listening at //p' "$work/output")
        [[ -z $url ]] || return 0
        kill -0 "$endpoint" 2>/dev/null || fail 'it exited'
        sleep 0.05
    done
    fail "it did not listen in $((try / 20)) seconds"
}

# Sends a request for work that SECRETS sign. The endpoint must answer as the pattern ANSWER says.
#   gives ANSWER SECRETS CASE [ID]
gives() {
    local answer
    answer=$(HANDLER_SECRETS=$2 "$work/send_work" "$url" "${@:3}") || fail "$3 could not be sent"
    answer=${answer//[[:space:]]/}
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $answer == $1 ]] || fail "the answer to $3 was $answer, expected $1"
}

# Prints the number of output lines that begin with WORD.
#   lines WORD
lines() { grep -c "^$1" "$work/output" || true; }

# Runs a stack on free ports with the settings NAME=VALUE, submits PAYLOAD for HANDLER, and expects
# that it ends as the pattern END says, which is for its JSON without spaces.
#   serves HANDLER PAYLOAD END WORKER NAME=VALUE...
serves() {
    local handler=$1 payload=$2 end=$3 worker=$4
    shift 4
    (
        export "${@?}" REDIS_URL=none STORM_BIN=$work/bin
        mkdir -p "$STORM_BIN"
        ln -sf "$ROOT/target/debug/storm-api" "$STORM_BIN/storm-api"
        ln -sf "$worker" "$STORM_BIN/storm-worker"
        stack_start api worker
        stack_run submit "$handler" "$payload" "$end"
    ) >"$work/stack" 2>&1 || { cat "$work/stack" >>"$work/output" && fail "no stack was served"; }
}

#   submit HANDLER PAYLOAD END
submit() {
    local answer id try
    answer=$(ask "$API_ADDR" POST "/async/$1" "{\"payload\": $2}")
    id=$(grep -o '"request_id":"[^"]*"' <<<"$answer" | cut -d '"' -f 4) || { echo "$answer" && return 1; }
    for try in {1..1200}; do
        answer=$(ask "$API_ADDR" GET "/requests/$id")
        [[ $answer != *'"status":"COMPLETED"'* && $answer != *'"status":"FAILED"'* ]] || break
        sleep 0.05
    done
    answer=${answer//[[:space:]]/}
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $answer == *$3* ]] ||
        { echo "after $((try / 20)) seconds: $answer" && return 1; }
}

# The pattern of a job that is done.
#   completed RESULT
completed() { printf '"status":"COMPLETED"*"result_payload":%s,' "$1"; }

# Tests an endpoint.
#   check COMMAND...
check() {
    local id=019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53 case
    start "$NEW" "$@"
    gives '200{"words":3}' "$NEW" good "$id"
    gives '200{"words":3}' "$NEW" good "$id"
    gives '200{"words":3}' "$NEW" good
    [[ $(find "$work/results" -type f | wc -l) == 2 ]] || fail 'expected 2 results'
    # It answers with what is stored, and works no second time.
    echo '{"words": 7}' >"$work/results/$id.json"
    gives '200{"words":7}' "$NEW" good "$id"
    for case in stale early forged unsigned tampered other-key; do gives '401*' "$NEW" "$case"; done
    gives '401*' "$OLD" good
    gives '422*' "$NEW" unusable
    # While a secret is being replaced, either side may have the new one first.
    gives '200*' "$OLD $NEW" good
    [[ $(lines 'done') == 3 && $(lines repeated) == 2 && $(lines refused) == 7 ]] ||
        fail 'expected 3 done, 2 repeated, 7 refused'
    start "$OLD $NEW" "$@"
    gives '200*' "$OLD" good
    gives '200*' "$NEW" good
    serves words '{"text": "as fast as a storm"}' "$(completed '{"words":5}')" "$ROOT/target/debug/storm-worker" \
        HANDLERS__WORDS__URL="$url" HANDLERS__WORDS__SECRET="$NEW"
    [[ $(lines 'done') == 3 ]] || fail 'the stack asked for something else'
    serves words '{"image": "cat.png"}' \
        '"status":"FAILED"*"reason":"work_failed","detail":"Theworkfailed:thehandleranswered422."' \
        "$ROOT/target/debug/storm-worker" HANDLERS__WORDS__URL="$url" HANDLERS__WORDS__SECRET="$NEW"
    stop_endpoint
    echo "ok: $test"
}

skipped() { echo "skipped: $test, because $1"; }

build dev api
need_cargo
cargo build --quiet --locked --manifest-path worker/Cargo.toml --bins --examples --target-dir target
for example in send_work own_handler endpoint; do cp "target/debug/examples/$example" "$work/"; done

test='a worker with a handler of its own, in Rust'
serves shout '{"text": "quiet"}' "$(completed '"QUIET"')" "$work/own_handler" HANDLERS__SHOUT__KIND=rust
serves shout '{"text": ""}' "$(completed '""')" "$work/own_handler" HANDLERS__SHOUT__KIND=rust \
    HANDLERS__SHOUT__RETRY_DELAYS=100ms
echo "ok: $test"

test='the endpoint in Python'
python=''
# python3 in PATH may be the shim of a version manager without an installed version.
for candidate in python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        python=$("$candidate" -c 'import sys; print(sys.executable)') && break
    fi
done
if [[ -n $python ]]; then
    check "$python" docs/examples/handlers/handler.py
else
    skipped 'Python 3.8 is not installed'
fi

test="the README's slow endpoint and its settings"
if [[ -n $python ]]; then
    port=$(free_port 20000)
    sed "s/9100/$port/; s/sleep(3)/sleep(0.1)/" docs/examples/handlers/slow.py >"$work/slow.py"
    sed "s/9100/$port/" docs/examples/handlers/settings.toml >"$work/settings.toml"
    set -m
    "$python" "$work/slow.py" >"$work/output" 2>&1 </dev/null &
    endpoint=$!
    set +m
    until is_busy 127.0.0.1 "$port"; do
        kill -0 "$endpoint" 2>/dev/null || fail 'it exited'
        sleep 0.05
    done
    serves words '{"text": "as fast as a storm"}' "$(completed '{"words":5}')" "$ROOT/target/debug/storm-worker" \
        STORM_CONFIG="$work/settings.toml"
    stop_endpoint
    echo "ok: $test"
else
    skipped 'Python 3.8 is not installed'
fi

test='the endpoint in Node'
if node -e 'process.exit(process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then
    check node docs/examples/handlers/handler.mjs
else
    skipped 'Node 18 is not installed'
fi

test='the endpoint in Go'
if command -v go >/dev/null; then
    GOFLAGS='' GOCACHE=$ROOT/target/go-cache \
        go build -o "$work/handler-go" docs/examples/handlers/handler.go >"$work/output" 2>&1 ||
        fail 'the build failed'
    check "$work/handler-go"
else
    skipped 'Go is not installed'
fi

test='the endpoint in Rust'
check "$work/endpoint"
