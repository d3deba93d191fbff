#!/usr/bin/env bash
# The promise of stack.sh: however a run ends, it leaves no process and no file, and its status says how it was.
# Redis is real; api and worker are stand-ins.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'kill -- "-${run:-}" 2>/dev/null && wait; rm -rf "$work"' EXIT
redis=$("$ROOT/scripts/find-tool.sh" redis-server)

# A program that notes its name and process id, and then does BODY.
#   stand_in NAME BODY
stand_in() {
    printf '#!/usr/bin/env bash\necho "%s $$" >>"%s/pids"\n%s\n' "$1" "$work" "$2" >"$work/$1"
    chmod +x "$work/$1"
}

# Begins a run in the background, in a process group of its own as a terminal would have it.
#   begin HEALTH [COMMAND...]
begin() {
    local health=$1
    shift
    : >"$work/pids"
    set -m
    # Whoever runs this in the background may have SIGINT ignored, and the ignored can't be trapped.
    # shellcheck disable=SC2016 # the inner shell expands them
    STORM_BIN=$work REDIS_SERVER=$work/redis REDIS_URL='' env --default-signal=INT bash -c '
        source "$0/scripts/stack.sh"
        is_healthy() { '"$health"'; }
        STOP_SECONDS=2
        stack_start api worker
        stack_run "$@"' "$ROOT" "$@" >"$work/output" 2>&1 &
    run=$!
    set +m
}

# Waits until that many programs are noted: redis, api, worker, then the job and its child.
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
    local status=0 pid
    wait "$run" || status=$?
    ((status == $1)) || fail "the status is $status, expected $1"
    while read -r _ pid; do
        ! is_running "$pid" || fail "process $pid stayed: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
    done <"$work/pids"
    ! grep -q '^data' "$work/output" || [[ ! -e $ROOT/$(awk '/^data/ { sub(",", "", $2); print $2 }' "$work/output") ]] ||
        fail "the stack's folder stayed"
    echo "ok: $test"
}

# A dead orphan is a zombie until init has seen it.
is_running() { kill -0 "$1" 2>/dev/null && ! grep -qs '^State:.Z' "/proc/$1/status"; }

#   said TEXT
said() { grep -qF -- "$1" "$work/output" || fail "it did not say: $1"; }

fail() {
    echo "FAILED: $test: $1; it said:"
    cat "$work/output"
    exit 1
}

stand_in redis "exec '$redis' \"\$@\""
stand_in storm-api 'exec sleep 60'
stand_in storm-worker 'exec sleep 60'
stand_in job "sleep 60 & echo child \$! >>'$work/pids'; wait" # a command with a child

test='the status of the command is the status of the run'
begin true bash -c 'exit 7'
ended_with 7

test='Ctrl-C ends the command, its children and the stack'
begin true "$work/job"
started 5
kill -INT -- "-$run"
ended_with 130

test='Ctrl-C while the stack starts ends it too'
begin false "$work/job"
started 3
kill -INT -- "-$run"
ended_with 130

test='SIGTERM to the script alone ends everything'
begin true "$work/job"
started 5
kill -TERM "$run"
ended_with 143

test='a service that dies under the command ends the run'
begin true "$work/job"
started 5
kill -KILL "$(awk '$1 == "storm-api" { print $2 }' "$work/pids")"
ended_with 1
said 'has died'

test='a service that dies at its start fails the run with its last words'
stand_in storm-worker 'echo "WORKER_ADDR=x: expected address:port" >&2; exit 1'
begin false "$work/job"
ended_with 1
said 'worker has died'
said 'WORKER_ADDR=x: expected address:port'

test='a service that ignores SIGTERM is killed, and fails the run'
stand_in storm-worker "trap '' TERM; sleep 60"
begin true true
ended_with 1
said 'worker did not end by itself'

test='callbacks are signed by a new secret, which services and command have and no output shows'
unset CALLBACK_SIGNING_SECRETS
# shellcheck disable=SC2016 # the stand-in expands it
stand_in storm-worker 'echo "$CALLBACK_SIGNING_SECRETS" >"$0-secret"; exec sleep 60'
# shellcheck disable=SC2016
begin true bash -c 'until [[ -s $0/storm-worker-secret ]]; do sleep 0.05; done
    [[ $CALLBACK_SIGNING_SECRETS == "$(<"$0/storm-worker-secret")" ]]' "$work"
ended_with 0
said 'signing   by a new secret'
[[ $(<"$work/storm-worker-secret") =~ ^whsec_[A-Za-z0-9+/]{43}=$ ]] || fail 'that is no secret'
! grep -qF "$(<"$work/storm-worker-secret")" "$work/output" || fail 'the secret is in the output'

test='secrets that are set are taken as they are, also none'
rm "$work/storm-worker-secret"
export CALLBACK_SIGNING_SECRETS=
# shellcheck disable=SC2016
begin true bash -c 'until [[ -e $0/storm-worker-secret ]]; do sleep 0.05; done' "$work"
ended_with 0
[[ -z $(<"$work/storm-worker-secret") ]] || fail 'another secret was taken'
