#!/usr/bin/env bash
# Tests a rolling upgrade: programs of the release before run beside those of this one on one
# database and one Redis, under load, with either service upgraded first. A worker of the release
# before is killed on the way, and can't start again. No job may be lost, and none that is repeated
# with its Idempotency-Key may be made twice.
#   BEFORE       the commit of the release before; its programs are built
#   BEFORE_BIN   a folder with its programs; nothing of it is built
#   STORM_BIN    a folder with this release's programs [they are built]
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

# A worker of the release before refuses the migrated database, and says what to do.
expect_refusal() {
    local log=$STACK_DIR/refused.log at
    at=127.0.0.1:$(free_port 28000)
    if WORKER_ADDR=$at within 60 "$BEFORE_BIN/storm-worker" >"$log" 2>&1 ||
        ! grep -q 'run a newer version' "$log"; then
        cat "$log"
        fail 'a worker of the release before did not refuse the migrated database'
    fi
}

completed() { sqlite3 -cmd '.timeout 10000' "$STACK_DIR/storm.db" "SELECT count(*) FROM requests WHERE status = 'COMPLETED'"; }

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
    expect_refusal
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

if [[ -z ${BEFORE_BIN:-} ]] && ! git -C "$ROOT" cat-file -e "$BEFORE^{commit}" 2>/dev/null; then
    echo "skipped: rolling upgrades, because this clone has no commit $BEFORE, the release before:" \
        'git fetch --unshallow'
    exit
fi
"$ROOT/scripts/find-tool.sh" sqlite3 >/dev/null
make_work
build_as_tests api worker loadgen
build_before
upgrade worker api
upgrade api worker
