#!/usr/bin/env bash
# Tests `make run` with real services: the request that it prints works when it is pasted, and each
# job that ends is a line of the terminal.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/listener.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/listener.sh"
read_arguments '' "$@"
cd -- "$ROOT"

command -v curl >/dev/null || { echo 'skipped: make run, because curl is not installed' && exit; }
build_as_tests api worker
make_work
run='' endpoint=''
clean_up() {
    [[ -z $endpoint ]] || kill "$endpoint" 2>/dev/null || true
    [[ -z ${LISTENER:-} ]] || stop_listening
    [[ -z $run ]] || stop_run
}

# Starts `make run` in a process group of its own, as a terminal would.
#   make_run [VARIABLE=VALUE]...
make_run() {
    API_ADDR=127.0.0.1:$(free_port 20000) WORKER_ADDR=127.0.0.1:$(free_port 24000)
    rm -f "$work/storm.db"*
    : >"$work/output" # or the output of the last run would be taken for that of this one
    set -m
    env --default-signal=INT -u LOG -u STORM_CONFIG -u REDIS_URL -u API_TOKENS \
        DB_URL="sqlite:$work/storm.db" API_ADDR="$API_ADDR" WORKER_ADDR="$WORKER_ADDR" \
        CALLBACK_SIGNING_SECRETS= "$@" make run >"$work/output" 2>&1 </dev/null &
    run=$!
    set +m
    output_has 'stop it with Ctrl-C'
}

stop_run() {
    kill -INT -- "-$run" 2>/dev/null || true
    wait "$run" || true
    run=''
}

# Waits for a line that contains TEXT.
#   output_has TEXT
output_has() {
    until grep -qF -- "$1" "$work/output"; do
        kill -0 "$run" 2>/dev/null || fail "it has ended without: $1"
        sleep 0.05
    done
}

# Pastes the request that was printed, and waits for the line of its job.
request_works() {
    local answer id
    answer=$(bash -c "$(sed -n 's/^try  *//p' "$work/output")" 2>/dev/null) || fail 'curl failed'
    [[ $answer == 'HTTP/1.1 202 '* ]] || fail "the answer: $answer"
    id=$(sed -nE 's/.*"request_id":"([^"]+)".*/\1/p' <<<"$answer")
    output_has "\"id\":\"$id\",\"outcome\":\"completed\""
    [[ $(grep -c "$id" "$work/output") == 1 ]] || fail 'the job has more than one line'
}

test='make run prints a curl that works when pasted, and a line when the job ends'
make_run
request_works
request_works
echo "ok: $test"

test='it says that REDIS_URL=none runs without Redis, and then does'
grep -q 'REDIS_URL=none' "$work/output" || fail 'it does not say so'
stop_run
make_run REDIS_URL=none
request_works
stop_run
echo "ok: $test"

test='with API_TOKENS the request has a token'
made=$("$STORM_BIN/storm-api" token new tester 2>&1)
STORM_TOKEN=$(grep '^storm_' <<<"$made")
export STORM_TOKEN
make_run API_TOKENS="$(grep '^tester:' <<<"$made")" REDIS_URL=none
request_works
! grep -qF "$STORM_TOKEN" "$work/output" || fail 'it printed the token'
stop_run
echo "ok: $test"

test='make run HANDLER=URL makes the endpoint there the handler own, and prints a request for it'
cargo build --quiet --locked --manifest-path worker/Cargo.toml --example endpoint --target-dir target
secret=$(new_secret)
HANDLER_SECRETS=$secret PORT=0 RESULTS=$work/results WORK_SECONDS=0.1 \
    target/debug/examples/endpoint >"$work/endpoint" 2>&1 &
endpoint=$!
until url=$(sed -n 's/^listening at //p' "$work/endpoint") && [[ -n $url ]]; do
    kill -0 "$endpoint" || fail 'the endpoint has ended'
    sleep 0.05
done
make_run HANDLER="$url" HANDLERS__OWN__SECRET="$secret"
request_works
stop_run
grep -q '^done ' "$work/endpoint" || fail 'the endpoint was not asked'
[[ $(<"$(find "$work/results" -name '*.json')") == '{"words":5}' ]] || fail 'it has another result'
kill "$endpoint"
wait "$endpoint" || true
endpoint=''
echo "ok: $test"

test='a HANDLER that is no URL is one sentence, before anything is built'
status=0
env -u STORM_BIN HANDLER=127.0.0.1:9100 scripts/stack.sh run >"$work/output" 2>&1 || status=$?
[[ $status == 1 && $(wc -l <"$work/output") == 1 ]] || fail "status $status"
grep -q 'HANDLER=127.0.0.1:9100: expected the URL of your endpoint' "$work/output" || fail 'it says something else'
echo "ok: $test"

test='a taken port is one sentence that names port and setting, before anything is built'
port=$(free_port 20000)
listen_on "$port"
for name in API_ADDR WORKER_ADDR; do
    status=0
    env -u STORM_BIN API_ADDR="127.0.0.1:$(free_port 24000)" WORKER_ADDR="127.0.0.1:$(free_port 16000)" \
        "$name=127.0.0.1:$port" scripts/stack.sh run >"$work/output" 2>&1 || status=$?
    [[ $status == 1 && $(wc -l <"$work/output") == 1 ]] || fail "status $status"
    grep -q "127.0.0.1:$port is taken by another program: choose another: $name=127.0.0.1:" "$work/output" ||
        fail 'it says something else'
done
echo "ok: $test"
