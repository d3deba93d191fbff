#!/usr/bin/env bash
# Tests, with a real API and worker, that a job whose callback leads to the API itself starts
# nothing: no job, and no redelivery.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
read_arguments '' "$@"

build_as_tests api worker
export REDIS_URL=none CALLBACK_ALLOW=127.0.0.1/32,::1/128 CALLBACK_RETRY_DELAYS=''

fail() {
    echo "FAILED: $1; the answer: ${answer:-}"
    exit 1
}

# Accepts a job whose callback leads to PATH of the API, and waits for its end. The API must have
# refused the callback.
#   job_calls PATH
job_calls() {
    local id try
    answer=$(ask "$API_ADDR" POST /async \
        "{\"records\": 1, \"report_name\": \"a\", \"callback_url\": \"http://127.0.0.1:$(port_of "$API_ADDR")$1\"}")
    id=$(sed -nE 's/.*"request_id":"([^"]*)".*/\1/p' <<<"$answer")
    [[ -n $id ]] || fail "the job that calls $1 was not accepted"
    ids+=("$id")
    for try in {1..600}; do
        answer=$(ask "$API_ADDR" GET "/requests/$id")
        [[ $answer != *'"status":"FAILED"'* ]] || break
        sleep 0.1
    done
    [[ $answer == *'"status":"FAILED"'*'"detail":"'*'HTTP status 403'* ]] ||
        fail "the callback to $1 was not refused in $((try / 10)) s"
}

stack_start api worker
ids=()
# The first is FAILED before the others call, so that there is something to redeliver.
for path in /nothing '/requests/redeliver?status=FAILED' /async /sync; do job_calls "$path"; done
job_calls "/requests/${ids[0]}/redeliver"
answer=$(ask "$API_ADDR" GET /metrics)
for refused in '"requests",status="403"} 2' '"async",status="403"} 1' '"sync",status="403"} 1'; do
    [[ $answer == *"{endpoint=$refused"* ]] || fail "expected $refused among the metrics"
done
[[ $answer == *'{endpoint="async",status="202"} 5'* ]] || fail 'another job was accepted'
[[ $answer != *'{endpoint="requests",status="202"}'* ]] || fail 'a redelivery was started'
for id in "${ids[@]}"; do
    answer=$(ask "$API_ADDR" GET "/requests/$id")
    [[ $answer == *'"attempts":[{"number":1,'*'"redelivery":null'* && $answer != *'"number":2,'* ]] ||
        fail 'a callback was repeated'
done
echo 'ok: a job whose callback leads to the API itself starts nothing'
