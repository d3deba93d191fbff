#!/usr/bin/env bash
# Tests a rolling upgrade: programs of the previous release run beside those of this one on one
# database and one Redis, under load, with either service upgraded first. A worker of the previous
# release is killed on the way, and can't start again. No job may be lost, and none that is repeated
# with its Idempotency-Key may be made twice. Then this API cancels, pauses and accepts jobs of a
# handler beside workers of the previous release, which must never claim such a job.
#   BEFORE       the commit of the previous release; its programs are built
#   BEFORE_BIN   a folder with its programs; nothing of it is built
#   STORM_BIN    a folder with this release's programs [they are built]
# shellcheck disable=SC2030,SC2031 # each scenario is a subshell with a stack of its own
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$ROOT/scripts/stack.sh"
read_arguments '' "$@"

# Until releases have tags: the last commit before the migrations that are new in this one.
BEFORE=${BEFORE:-1cefaef4eed02d2d0072e762efaaf6fba3d8006f}
RATE=40
LOAD=12s

# Sets BEFORE_BIN to a folder with the programs of the commit BEFORE, which it keeps for the next
# run. The crates that both releases depend on are compiled once: Cargo's build-dir is the same.
build_before() {
    [[ -z ${BEFORE_BIN:-} ]] || return 0
    local source=$ROOT/target/before/$BEFORE project
    if [[ ! -d $source ]]; then
        mkdir -p "$source.new"
        git -C "$ROOT" archive "$BEFORE" shared api worker .cargo | tar --extract --directory "$source.new"
        mv "$source.new" "$source"
    fi
    for project in api worker; do
        (cd -- "$source" && CARGO_BUILD_BUILD_DIR=$ROOT/target CARGO_TARGET_DIR=$source/target \
            cargo build --quiet --locked --manifest-path "$project/Cargo.toml") || return
    done
    BEFORE_BIN=$source/target/debug
}

# Starts a program of a release, and waits until it is ready.
#   begin before-api|before-worker|now-api|now-worker
begin() {
    local folder=$STORM_BIN
    [[ $1 != before-* ]] || folder=$BEFORE_BIN
    API_ADDR=${address[$1]} WORKER_ADDR=${address[$1]} \
        spawn "$folder/storm-${1#*-}" >>"$STACK_DIR/$1.log" 2>&1
    PID[$1]=$!
    await "$1" is_healthy "${address[$1]}"
    say "$(printf '%-13s' "$1") ready"
}

# Sends jobs to the API of a release, in the background.
#   load before|now
load() {
    spawn "$STORM_BIN/storm-loadgen" storm --mode async --api "http://${address[$1-api]}" \
        --rate "$RATE" --duration "$LOAD" --records 3 --listen localhost:0 \
        --json "$STACK_DIR/$1.json" >"$STACK_DIR/load-$1.log" 2>&1
    loads[$1]=$!
}

finish_loads() {
    local release
    for release in "${!loads[@]}"; do
        wait "${loads[$release]}" || {
            cat "$STACK_DIR/load-$release.log"
            fail "the jobs of the API of the release $release did not all end well"
        }
    done
}

# Sends a job with an Idempotency-Key to the API of a release, and prints its id.
#   submit before|now
submit() {
    local body='{"report_name":"repeated","records":1}' answer
    exec {api}<>"/dev/tcp/${address[$1-api]/://}"
    printf '%s\r\n' 'POST /async HTTP/1.1' "Host: ${address[$1-api]}" 'Connection: close' \
        'Content-Type: application/json' 'Idempotency-Key: an-upgrade' \
        "Content-Length: ${#body}" '' >&"$api"
    printf '%s' "$body" >&"$api"
    answer=$(cat <&"$api")
    exec {api}>&-
    [[ $answer == 'HTTP/1.1 202 '* ]] || fail "the API of the release $1 answered: $answer" >&2
    answer=${answer#*\"request_id\":\"}
    echo "${answer%%\"*}"
}

# A program of the previous release refuses the migrated database, and says what to do.
#   expect_refusal api|worker
expect_refusal() {
    local log=$STACK_DIR/refused.log at status=0
    at=127.0.0.1:$(free_port 28000)
    API_ADDR=$at WORKER_ADDR=$at within 60 "$BEFORE_BIN/storm-$1" >"$log" 2>&1 || status=$?
    if ((status != 1)) || ! grep -q 'has schema version .*: run a newer version' "$log"; then
        cat "$log"
        fail "the $1 of the previous release did not refuse the database: status $status"
    fi
}

# Runs SQL on the stack's database.
#   sql STATEMENT
sql() { sqlite3 -cmd '.timeout 10000' "$STACK_DIR/storm.db" "$1"; }

completed() { sql "SELECT count(*) FROM requests WHERE status = 'COMPLETED'"; }

# Waits until COUNT more jobs are completed.
complete_more() {
    local target=$(($(completed) + $1)) deadline=$((SECONDS + 120))
    until (($(completed) >= target)); do
        services_alive || fail "a service has died"
        ((SECONDS < deadline)) || fail "no $1 more jobs were completed in 120 s"
        sleep 0.1
    done
}

kill_hard() {
    kill -KILL -- "-${PID[$1]}"
    unset "PID[$1]"
}

# Upgrades a stack, SERVICE first, and OTHER when both releases have worked side by side.
#   upgrade SERVICE OTHER
upgrade() (
    test="$1 first"
    declare -A address=() loads=()
    STACK_DIR=$work/$1-first
    mkdir "$STACK_DIR"
    # shellcheck disable=SC2317 # the trap calls it
    end() {
        for pid in "${loads[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
        stop "${!PID[@]}" || true
    }
    trap end EXIT
    export DB_URL=sqlite:$STACK_DIR/storm.db WORKER_LEASE=2s CALLBACK_ALLOW=127.0.0.1/32,::1/128
    address=([before-api]=127.0.0.1:$(free_port 20000) [now-api]=127.0.0.1:$(free_port 16000)
        [before-worker]=127.0.0.1:$(free_port 24000) [now-worker]=127.0.0.1:$(free_port 12000))
    have_secret
    start_redis
    begin before-api
    begin before-worker
    id=$(submit before)
    load before
    complete_more 20
    begin "now-$1" # migrates the database, under load
    [[ $1 == worker ]] || load now
    expect_refusal worker
    complete_more 50
    [[ $1 != worker ]] || kill_hard before-worker # the new one reclaims its jobs
    begin "now-$2"
    [[ $1 == worker ]] || kill_hard before-worker
    [[ $2 == worker ]] || load now
    repeated=$(submit now)
    [[ $repeated == "$id" ]] || fail "the repeat of $id was accepted as $repeated"
    finish_loads
    stop before-api before-worker
    left=$(sqlite3 "$STACK_DIR/storm.db" "SELECT status, count(*) FROM requests
        WHERE status <> 'COMPLETED' GROUP BY status; PRAGMA integrity_check")
    [[ $left == ok ]] || fail "the database is left with: $left"
    echo "ok: the $1 first: all of $(completed) jobs are completed"
)

# Prints a column of a job.
#   column ID COLUMN
column() { sql "SELECT $2 FROM requests WHERE id = '$1'"; }

# Waits until a query has an answer.
#   await_answer SQL ANSWER
await_answer() {
    local deadline=$((SECONDS + 120))
    until [[ $(sql "$1") == "$2" ]]; do
        services_alive || fail "a service has died"
        ((SECONDS < deadline)) || fail "after 120 s, $1 is $(sql "$1"), and not $2"
        sleep 0.1
    done
}

# Waits until a job has a status.
#   await_status ID STATUS
await_status() { await_answer "SELECT status FROM requests WHERE id = '$1'" "$2"; }

# Waits until the log of a process has a line with a text.
#   await_line NAME TEXT
await_line() {
    local deadline=$((SECONDS + 120))
    until grep -qF "$2" "$STACK_DIR/$1.log"; do
        services_alive || fail "a service has died"
        ((SECONDS < deadline)) || fail "after 120 s, the log of $1 has no line with: $2"
        sleep 0.1
    done
}

# Sends a job to the API of this release, and prints its id.
#   send PATH BODY
send() {
    local answer
    answer=$(ask "${address[now-api]}" POST "$1" "$2")
    [[ $answer == 'HTTP/1.1 202 '* ]] || fail "a job was answered: $answer" >&2
    answer=${answer#*\"request_id\":\"}
    echo "${answer%%\"*}"
}

# The same for a report.
#   report RECORDS
report() { send /async "{\"report_name\":\"across\",\"records\":$1}"; }

# The same for a job of the handler `own`, whose endpoint `receive` is.
own() { send /async/own '{"payload":{"image":"cat.png"}}'; }

# No worker of the previous release has claimed a job of the handler: each was claimed once, under a
# lease of the worker of this release.
expect_claims_of_now() {
    local of owner claim jobs=0
    of=$(sql "SELECT owner, claim FROM requests WHERE handler = 'own'")
    while IFS='|' read -r owner claim; do
        [[ $claim == 1 ]] || fail "a job of the handler was claimed $claim times"
        grep -qF "$owner" "$STACK_DIR/now-worker.log" || fail "a job of the handler was done by $owner"
        jobs=$((jobs + 1))
    done <<<"$of"
    [[ $(ask "${address[endpoint]}" GET /stats) == *"\"received\":$jobs,"* ]] ||
        fail "the endpoint did not get each of $jobs jobs once"
}

holds_no_job() { ask "$1" GET /metrics | grep -qx 'storm_worker_jobs 0'; }
is_paused() { health_is "$1" '*"paused":true*'; }
receives() { [[ $(ask "$1" GET /stats 2>/dev/null) == 'HTTP/1.1 200 '* ]]; }

# Starts a Redis, the endpoint of the handler `own`, a worker of the previous release, and the API
# of this one.
#   begin_mixed NAME
begin_mixed() {
    STACK_DIR=$work/$1
    mkdir "$STACK_DIR"
    trap 'stop "${!PID[@]}" || true' EXIT
    address=([now-api]=127.0.0.1:$(free_port 16000) [endpoint]=127.0.0.1:$(free_port 20000)
        [before-worker]=127.0.0.1:$(free_port 24000) [now-worker]=127.0.0.1:$(free_port 12000))
    export DB_URL=sqlite:$STACK_DIR/storm.db WORKER_LEASE=2s
    export HANDLERS__OWN__URL=http://${address[endpoint]}/
    have_secret
    start_redis
    spawn "$STORM_BIN/storm-loadgen" receive --listen "${address[endpoint]}" \
        >"$STACK_DIR/endpoint.log" 2>&1
    PID[endpoint]=$!
    await endpoint receives "${address[endpoint]}"
    begin before-worker
    begin now-api
}

# Cancels, pauses and submits to a handler with programs of this release, while a worker of the
# previous release runs and after it has stopped.
across() (
    test='across releases'
    declare -A address=()
    begin_mixed across

    id=$(report 2000)
    await_status "$id" PROCESSING
    answer=$(ask "${address[now-api]}" DELETE "/requests/$id")
    [[ $answer == 'HTTP/1.1 200 '* ]] || fail "the cancellation was answered: $answer"
    # Whether it has heard of that or goes on to the end of the work, it writes nothing of it.
    await before-worker holds_no_job "${address[before-worker]}"
    await_status "$(report 1)" COMPLETED
    left=$(column "$id" "status || ' ' || failure_reason || ' ' || (result_payload IS NULL)")
    [[ $left == 'FAILED cancelled 1' ]] || fail "the cancelled job is left with: $left"
    echo 'ok: a job of a worker of the previous release is cancelled, and stays so'

    begun=$(report 500) # the worker of the previous release has it when it stops
    await_status "$begun" PROCESSING
    answer=$(ask "${address[now-api]}" POST /async/own '{"payload":{"image":"cat.png"}}')
    [[ $answer == 'HTTP/1.1 503 '*'urn:storm:problem:old-workers'* ]] ||
        fail "beside a worker of the previous release, a job of a handler was answered: $answer"
    [[ $(sql 'SELECT count(*) FROM requests') == 3 ]] || fail 'a refused job was stored'
    echo 'ok: beside a worker of the previous release, a job of a handler is refused and not stored'

    "$STORM_BIN/storm-api" pause everything >"$STACK_DIR/pause.log"
    # CHANGELOG: upgrade all processes before you pause, for the previous release does not know it.
    await_status "$(report 1)" COMPLETED
    stop before-worker
    first=$(own) # nothing more than the stop is needed
    begin now-worker
    await now-worker is_paused "${address[now-worker]}"
    id=$(report 1)
    for job in "$id" "$first"; do
        [[ $(ask "${address[now-api]}" GET "/requests/$job") == *'"reason":"paused"'* ]] ||
            fail 'a job does not say that it waits for the end of the pause'
        [[ $(column "$job" "status || ' ' || claim") == 'PENDING 0' ]] || fail 'the pause does not hold'
    done
    "$STORM_BIN/storm-api" resume everything >"$STACK_DIR/pause.log"
    await_status "$id" COMPLETED
    await_status "$begun" COMPLETED
    echo 'ok: a pause holds once the worker of the previous release is gone, and no job is lost'

    await_status "$first" COMPLETED
    expect_refusal api
    expect_refusal worker
    await_status "$(own)" COMPLETED
    await_status "$(report 1)" COMPLETED
    expect_claims_of_now
    await_answer "SELECT count(*) FROM requests WHERE status <> 'COMPLETED'" 1 # the cancelled one
    echo 'ok: once it is stopped, jobs of handlers are done, and the previous release starts no more'
)

# A worker of the previous release is suspended until its lease is over. Then it wakes up among jobs
# of a handler that are due.
suspended() (
    test='a suspended worker'
    declare -A address=()
    # Without Redis it looks for jobs twenty times a second.
    export REDIS_URL=none
    begin_mixed suspended
    begin now-worker
    kill -STOP -- "-${PID[before-worker]}"
    await_answer 'SELECT count(*) FROM workers WHERE handlers IS NULL' 0
    "$STORM_BIN/storm-api" pause everything >"$STACK_DIR/pause.log"
    for _ in {1..20}; do own >/dev/null; done
    # It does not know the pause.
    kill -CONT -- "-${PID[before-worker]}"
    await_line before-worker 'this store has jobs of handlers: run a newer version'
    [[ $(sql "SELECT DISTINCT status || ' ' || claim FROM requests") == 'PENDING 0' ]] ||
        fail 'a worker of the previous release has claimed a job of a handler'
    "$STORM_BIN/storm-api" resume everything >"$STACK_DIR/pause.log"
    await_answer "SELECT count(*) FROM requests WHERE status <> 'COMPLETED'" 0
    expect_claims_of_now
    echo 'ok: a suspended worker of the previous release wakes up, and claims no job of a handler'
)

if [[ -z ${BEFORE_BIN:-} ]] && ! git -C "$ROOT" cat-file -e "$BEFORE^{commit}" 2>/dev/null; then
    echo "skipped: rolling upgrades, because this clone has no commit $BEFORE, the previous release:" \
        'git fetch --unshallow'
    exit
fi
"$ROOT/scripts/find-tool.sh" sqlite3 >/dev/null
make_work
build_as_tests api worker loadgen
build_before
upgrade worker api
upgrade api worker
across
suspended
