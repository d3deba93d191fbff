#!/usr/bin/env bash
# Tests stack.sh: however a run ends, it leaves no process and no file, and its exit status says how
# it ended. Redis is real; the API and the worker are stubs.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/listener.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/listener.sh"
read_arguments '' "$@"
make_work
clean_up() {
    [[ -z ${LISTENER:-} ]] || stop_listening
    kill -- "-${run:-}" 2>/dev/null && wait
}
redis=$("$ROOT/scripts/find-tool.sh" redis-server)

# Makes a program that records its name and process id, and then runs BODY.
#   stub NAME BODY
stub() {
    printf '#!/usr/bin/env bash\necho "%s $$" >>"%s/pids"\n%s\n' "$1" "$work" "$2" >"$work/$1"
    chmod +x "$work/$1"
}

# Starts a run in the background, in its own process group, as a terminal would.
#   begin HEALTH [COMMAND...]
begin() {
    local health=$1
    shift
    : >"$work/pids"
    set -m
    # If this test was started in the background, SIGINT is ignored, and bash can't trap an ignored
    # signal.
    # shellcheck disable=SC2016 # the inner shell expands them
    STORM_BIN=$work REDIS_SERVER=$work/redis REDIS_URL=${there:-} env --default-signal=INT bash -c '
        source "$0/scripts/stack.sh"
        is_healthy() { '"$health"'; }
        STOP_SECONDS=2
        stack_start api worker
        stack_run "$@"' "$ROOT" "$@" >"$work/output" 2>&1 &
    run=$!
    set +m
}

# Waits until COUNT programs are recorded: redis, api, worker, then the job and its child.
#   started COUNT
started() {
    local try
    for try in {1..1200}; do
        (($(wc -l <"$work/pids") < $1)) || return 0
        sleep 0.05
    done
    fail "only $(wc -l <"$work/pids") of $1 programs started in $((try / 20)) seconds"
}

#   ended_with STATUS
ended_with() {
    local status=0 pid data
    wait "$run" || status=$?
    ((status == $1)) || fail "the status is $status, expected $1"
    while read -r _ pid; do
        ! is_running "$pid" || fail "process $pid is still running: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
    done <"$work/pids"
    if grep -q '^data' "$work/output"; then
        data=$ROOT/$(awk '/^data/ { sub(",", "", $2); print $2 }' "$work/output")
        [[ ! -e $data ]] || fail "the stack's folder was not deleted"
    fi
    echo "ok: $test"
}

# A dead orphan is a zombie until init reaps it.
is_running() { kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"; }

#   printed TEXT
printed() { grep -qF -- "$1" "$work/output" || fail "it did not print: $1"; }

stub redis "exec '$redis' \"\$@\""
stub storm-api 'exec sleep 60'
stub storm-worker 'exec sleep 60'
stub job "sleep 60 & echo child \$! >>'$work/pids'; wait" # a command with a child

test='the run exits with the status of its command'
begin true bash -c 'exit 7'
ended_with 7

test='Ctrl-C stops the command, its children and the stack'
begin true "$work/job"
started 5
kill -INT -- "-$run"
ended_with 130

test='Ctrl-C stops a stack that is still starting'
begin false "$work/job"
started 3
kill -INT -- "-$run"
ended_with 130

test='the end of the terminal (SIGHUP) stops everything, though no service ends by SIGHUP'
stub storm-api "trap '' HUP; exec sleep 60"
stub storm-worker "trap '' HUP; exec sleep 60"
begin true "$work/job"
started 5
kill -HUP -- "-$run"
ended_with 129

test='SIGTERM to the script alone stops everything'
begin true "$work/job"
started 5
kill -TERM "$run"
ended_with 143

test='a service that dies while the command runs ends the run'
begin true "$work/job"
started 5
kill -KILL "$(awk '$1 == "storm-api" { print $2 }' "$work/pids")"
ended_with 1
printed 'has died'

test='a service that dies at its start fails the run, and its last log lines are shown'
stub storm-worker 'echo "WORKER_ADDR=x: expected address:port" >&2; exit 1'
begin false "$work/job"
ended_with 1
printed 'worker has died'
printed 'WORKER_ADDR=x: expected address:port'

test='a service that ignores SIGTERM is killed, and fails the run'
stub storm-worker "trap '' TERM; sleep 60"
begin true true
ended_with 1
printed 'worker did not stop in'

test='callbacks are signed with a new secret, which services and command get and no output shows'
unset CALLBACK_SIGNING_SECRETS
# shellcheck disable=SC2016 # the stub expands it
stub storm-worker 'echo "$CALLBACK_SIGNING_SECRETS" >"$0-secret"; exec sleep 60'
# shellcheck disable=SC2016
begin true bash -c 'until [[ -s $0/storm-worker-secret ]]; do sleep 0.05; done
    [[ $CALLBACK_SIGNING_SECRETS == "$(<"$0/storm-worker-secret")" ]]' "$work"
ended_with 0
printed 'signing   with a new secret'
[[ $(<"$work/storm-worker-secret") =~ ^whsec_[A-Za-z0-9+/]{43}=$ ]] || fail 'the secret is malformed'
! grep -qF "$(<"$work/storm-worker-secret")" "$work/output" || fail 'the secret is in the output'

test='secrets that are set are used as they are, also an empty list'
rm "$work/storm-worker-secret"
export CALLBACK_SIGNING_SECRETS=
# shellcheck disable=SC2016
begin true bash -c 'until [[ -e $0/storm-worker-secret ]]; do sleep 0.05; done' "$work"
ended_with 0
[[ -z $(<"$work/storm-worker-secret") ]] || fail 'another secret was used'

test='in a Redis that is there already it deletes the streams of its queue, and no other key'
if command -v redis-cli >/dev/null; then
    port=$(free_port 28000)
    listen_on "$port"
    there=redis://127.0.0.1:$port
    redis-cli -u "$there" SET another kept >/dev/null
    # shellcheck disable=SC2016 # the stub expands them
    stub storm-worker 'for stream in "$QUEUE_NAME" "$QUEUE_NAME:own" "$QUEUE_NAME:words"; do
        redis-cli -u "$REDIS_URL" XADD "$stream" "*" id x >/dev/null
    done; touch "$0-wrote"; exec sleep 60'
    # shellcheck disable=SC2016
    begin true bash -c 'until [[ -e $0/storm-worker-wrote ]]; do sleep 0.05; done' "$work"
    ended_with 0
    left=$(redis-cli -u "$there" KEYS '*')
    [[ $left == another ]] || fail "it left: $left"
else
    echo "skipped: $test, because redis-cli is not installed"
fi
