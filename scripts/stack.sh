#!/usr/bin/env bash
# A stack of our own (Redis, api, worker) that is gone when the script that started it ends.
# Sourced, it gives: stack_start SERVICE..., then stack_run COMMAND as often as wanted; everything is stopped on exit.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

START_SECONDS=30
STOP_SECONDS=30 # the services promise 25
STACK_DIR=''    # the stack's temporary folder, removed on exit
FOREGROUND=''   # set: logs go to the terminal instead of that folder
PRIVATE_QUEUE=''
declare -A PID=() # of redis, api, worker, and the command beside them; each leads a process group

usage() {
    cat <<'USAGE'
usage: scripts/stack.sh run               a stack in the foreground: API on port 8000, worker on 9000
       scripts/stack.sh with COMMAND...   runs COMMAND beside a stack on free ports, then stops the stack

`run` keeps its data in target/run. `with` keeps nothing, and tells COMMAND the addresses in STORM_API
and STORM_WORKER. The services' own settings pass through: SYNC_THREADS=1 scripts/stack.sh run

  DB_URL, API_ADDR, WORKER_ADDR   other places for `run`; `with` chooses its own
  REDIS_URL      a Redis to use as it is, or none to go without; unset: one of our own on a free port
  REDIS_SERVER   the redis-server to start; unset: the one in PATH
  STORM_BIN      a folder of ready-made binaries; unset: they are built
  CALLBACK_SIGNING_SECRETS   what signs callbacks, or nothing for none; unset: a new secret, which `run`
                             keeps in target/run/signing-secret and `with` tells COMMAND
USAGE
}

# Starts a stack on free ports whose data goes with it. For several, one after the other, give each a subshell.
stack_start() {
    stack_open
    export DB_URL=sqlite:$STACK_DIR/storm.db API_ADDR WORKER_ADDR
    API_ADDR=127.0.0.1:$(free_port 20000)
    WORKER_ADDR=127.0.0.1:$(free_port 24000)
    say "data      ${STACK_DIR#"$ROOT"/}, removed at the end"
    have_secret
    start_redis
    start_services "$@"
}

# Makes ready for a stack on the usual ports that keeps its data and logs to the terminal: start_services starts it.
stack_prepare_here() {
    export API_ADDR=${API_ADDR:-127.0.0.1:8000} WORKER_ADDR=${WORKER_ADDR:-127.0.0.1:9000}
    require_free API_ADDR "$API_ADDR"
    require_free WORKER_ADDR "$WORKER_ADDR"
    FOREGROUND=yes
    stack_open
    mkdir -p "$ROOT/target/run"
    export DB_URL=${DB_URL:-sqlite:$ROOT/target/run/storm.db}
    say "data      $DB_URL, kept"
    keep_secret "$ROOT/target/run/signing-secret"
    start_redis
}

# Runs a command beside the stack and returns its status; ends it when the stack dies under it.
stack_run() {
    local pid
    spawn "$@"
    pid=$! PID[command]=$!
    while is_alive "$pid"; do
        if ! services_alive; then
            stop command || true
            return 1
        fi
        sleep 0.2
    done
    unset 'PID[command]'
    wait "$pid"
}

stack_open() {
    trap stack_close EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    mkdir -p "$ROOT/target"
    STACK_DIR=$(mktemp -d "$ROOT/target/stack.XXXXXX")
}

stack_close() {
    local status=$? pid
    set +e                             # whatever fails, the rest is still cleaned up
    trap '' PIPE                       # also when nobody reads any more what is said
    trap 'STOP_SECONDS=0' INT TERM HUP # told again: kill
    stop command
    stop api worker || status=1
    stop redis
    # Whoever a signal caught between its start and its name in PID.
    for pid in $(jobs -p); do kill -KILL -- "-$pid"; done 2>/dev/null
    remove_private_queue
    ((status == 0 || status > 128)) || keep_logs
    rm -rf "$STACK_DIR"
    exit "$status"
}

keep_logs() {
    mkdir -p "$ROOT/target/failed"
    mv "$STACK_DIR"/*.log "$ROOT/target/failed/" 2>/dev/null && say "the stack's logs are kept in target/failed"
}

# Callbacks are signed by a new secret, unless CALLBACK_SIGNING_SECRETS is set. It is told to no one but by
# the environment.
have_secret() {
    if [[ -n ${CALLBACK_SIGNING_SECRETS+set} ]]; then
        say "signing   as CALLBACK_SIGNING_SECRETS says"
    else
        CALLBACK_SIGNING_SECRETS=$(new_secret)
        export CALLBACK_SIGNING_SECRETS
        say "signing   by a new secret, which goes with the data"
    fi
}

# The same, with a secret that stays the same from run to run.
#   keep_secret FILE
keep_secret() {
    if [[ -z ${CALLBACK_SIGNING_SECRETS+set} ]]; then
        [[ -s $1 ]] || (umask 077 && new_secret >"$1")
        CALLBACK_SIGNING_SECRETS=$(<"$1")
        export CALLBACK_SIGNING_SECRETS
        say "signing   by the secret in ${1#"$ROOT"/}"
    else
        have_secret
    fi
}

new_secret() { printf 'whsec_%s\n' "$(head -c 32 /dev/urandom | base64)"; }

start_redis() {
    local server address
    if [[ ${REDIS_URL:-} == none ]]; then
        say "redis     none, as REDIS_URL says: the table is polled"
        return
    fi
    if [[ -n ${REDIS_URL:-} ]]; then
        # The queue gets a name of its own: nobody's entries are in our way, nor ours in theirs.
        [[ -n ${QUEUE_NAME:-} ]] || PRIVATE_QUEUE=storm-${STACK_DIR##*.}
        export QUEUE_NAME=${QUEUE_NAME:-$PRIVATE_QUEUE}
        say "redis     ${REDIS_URL/'//'*@/'//***@'}, as REDIS_URL says; queue $QUEUE_NAME"
        return
    fi
    server=$("$ROOT/scripts/find-tool.sh" redis-server)
    address=127.0.0.1:$(free_port 28000)
    say "redis     $address, by $server, without persistence"
    # Redis refuses to start where the environment names a locale that isn't installed.
    LC_ALL=C spawn "$server" --bind 127.0.0.1 --port "${address##*:}" --dir "$STACK_DIR" \
        --save '' --appendonly no >"$STACK_DIR/redis.log" 2>&1
    PID[redis]=$!
    await redis is_redis "$address"
    export REDIS_URL=redis://$address
}

start_services() {
    local name
    export STORM_API=http://$API_ADDR STORM_WORKER=http://$WORKER_ADDR
    for name; do start_service "$name"; done
    for name; do
        local addr=${name^^}_ADDR
        await "$name" is_healthy "${!addr}" || return
        say "$(printf '%-9s' "$name") http://${!addr}, ready"
    done
}

start_service() {
    if [[ -n $FOREGROUND ]]; then
        spawn "$STORM_BIN/storm-$1"
    else
        spawn "$STORM_BIN/storm-$1" >>"$STACK_DIR/$1.log" 2>&1
    fi
    PID[$1]=$!
}

# Starts a command in a process group of its own: Ctrl-C reaches this script alone, which then decides
# who ends when.
spawn() {
    set -m
    "$@" </dev/null &
    set +m
}

# Ends processes and what they started, together: SIGTERM, then SIGKILL.
#   stop NAME...
stop() {
    local name pid begun=$SECONDS killed=0
    for name; do
        [[ -z ${PID[$name]:-} ]] || kill -TERM -- "-${PID[$name]}" 2>/dev/null || true
    done
    for name; do
        pid=${PID[$name]:-}
        [[ -n $pid ]] || continue
        while is_alive "$pid" && ((SECONDS - begun < STOP_SECONDS)); do sleep 0.1 || true; done
        if is_alive "$pid"; then
            say "$name did not end by itself in $((SECONDS - begun)) seconds: killed"
            killed=1
        fi
        kill -KILL -- "-$pid" 2>/dev/null || true
        unset "PID[$name]"
    done
    return "$killed"
}

# Waits until `PROBE ADDRESS` succeeds while the process lives. If it is dead, another program has its
# port, and that one has answered.
#   await NAME PROBE ADDRESS
await() {
    local name=$1 deadline=$((SECONDS + START_SECONDS))
    until "$2" "$3" && is_alive "${PID[$name]}"; do
        services_alive || return
        if ((SECONDS >= deadline)); then
            show_log "$name" "$name was not ready in $START_SECONDS seconds"
            return 1
        fi
        sleep 0.1
    done
}

services_alive() {
    local name
    for name in "${!PID[@]}"; do
        if [[ $name != command ]] && ! is_alive "${PID[$name]}"; then
            show_log "$name" "$name has died"
            return 1
        fi
    done
}

#   show_log NAME WHAT_HAPPENED
show_log() {
    local log=$STACK_DIR/$1.log
    say "$2"
    if [[ -s $log ]]; then
        say "the last lines of its log:"
        tail -n 20 "$log" >&2
    fi
}

is_alive() { kill -0 "$1" 2>/dev/null; }

#   require_free VARIABLE ADDRESS
require_free() {
    ! is_busy "$(host_of "$2")" "$(port_of "$2")" ||
        die "$2 is taken by another program: choose another address, for example $1=127.0.0.1:$(free_port 20000)"
}

remove_private_queue() {
    [[ -n $PRIVATE_QUEUE ]] || return 0
    [[ $(redis-cli -u "$REDIS_URL" --no-auth-warning DEL "$PRIVATE_QUEUE" 2>/dev/null) == [01] ]] ||
        say "the stream $PRIVATE_QUEUE stays in that Redis: it takes a redis-cli that may delete it"
}

main() {
    case ${1:-} in
        run)
            (($# == 1)) || { usage >&2 && exit 2; }
            need_binaries api worker
            stack_prepare_here
            start_services api worker
            say "Ctrl-C ends it"
            while services_alive; do sleep 0.5; done
            exit 1
            ;;
        with)
            shift
            (($# > 0)) || { usage >&2 && exit 2; }
            need_binaries api worker
            stack_start api worker
            stack_run "$@"
            ;;
        --help | -h) usage ;;
        *) usage >&2 && exit 2 ;;
    esac
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
