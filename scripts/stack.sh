#!/usr/bin/env bash
# Runs a temporary stack (Redis, API, worker) that stops when the calling script exits. Sourced, it
# provides `stack_start SERVICE...`, once, and then `stack_run COMMAND...`, any number of times.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=postgres.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/postgres.sh"

START_SECONDS=30
STOP_SECONDS=30 # the services promise to stop in 25
STACK_DIR=''    # the stack's temporary folder, removed on exit
FOREGROUND=''   # set: logs go to the terminal instead of that folder
PRIVATE_QUEUE=''
# Process ids of redis, api, worker, and of the command beside them. Each leads its own process
# group.
declare -A PID=()

usage() {
    cat <<'USAGE'
usage: scripts/stack.sh run               run a stack in the foreground: API on port 8000, worker on 9000
       scripts/stack.sh with COMMAND...   run COMMAND beside a stack on free ports, then stop the stack

`run` keeps its data in target/run. `with` deletes its data, and passes the addresses to COMMAND in
STORM_API and STORM_WORKER. The services read their settings from the environment:
SYNC_THREADS=1 scripts/stack.sh run

  DB_URL, API_ADDR, WORKER_ADDR   for `run`; `with` chooses its own
  STORE          for `with`: sqlite, or postgres for a PostgreSQL server of its own, with fsync [sqlite]
  HANDLER        for `run`: the URL of an endpoint of your own; it becomes the handler `own`, and
                 HANDLERS__OWN__TIMEOUT=5m and so on set what else it needs
  REDIS_URL      an existing Redis, or none to run without one [a new one on a free port]
  LOG            the log filter; `run` shows a line for each job that ends [info,storm_worker::jobs=debug]
  REDIS_SERVER   the redis-server to start [the one in PATH]
  STORM_BIN      a folder with the binaries [they are built]
  CALLBACK_SIGNING_SECRETS   the secrets that sign callbacks; empty: callbacks are not signed
                             [a new secret: `run` keeps it in target/run/signing-secret, and `with`
                             passes it to COMMAND in this variable]
USAGE
}

# Starts a stack on free ports; its data is deleted on exit. To start several in turn, run each in a
# subshell.
stack_start() {
    stack_open
    export DB_URL=sqlite:$STACK_DIR/storm.db API_ADDR WORKER_ADDR
    API_ADDR=127.0.0.1:$(free_port 20000)
    WORKER_ADDR=127.0.0.1:$(free_port 24000)
    say "data      ${STACK_DIR#"$ROOT"/}, deleted at the end"
    [[ ${STORE:-sqlite} == sqlite ]] || start_store
    have_secret
    start_redis
    start_services "$@"
}

# Starts a PostgreSQL server with an empty database, and sets DB_URL.
start_store() {
    start_postgres with
    "$POSTGRES_BIN/psql" --quiet "$TEST_POSTGRES/postgres" --command 'CREATE DATABASE storm'
    export DB_URL=$TEST_POSTGRES/storm
}

# Checks what a stack on the usual ports needs. Call it before a build, which may take minutes.
stack_check_here() {
    export API_ADDR=${API_ADDR:-127.0.0.1:8000} WORKER_ADDR=${WORKER_ADDR:-127.0.0.1:9000}
    require_free API_ADDR "$API_ADDR"
    require_free WORKER_ADDR "$WORKER_ADDR"
    require_redis
}

# Makes the endpoint at HANDLER, if there is one, the handler `own`.
take_handler() {
    [[ -n ${HANDLER:-} ]] || return 0
    [[ $HANDLER == http://?* || $HANDLER == https://?* ]] ||
        die "HANDLER=$HANDLER: expected the URL of your endpoint, such as http://127.0.0.1:9100/"
    export HANDLERS__OWN__URL=$HANDLER
    say "handler   own (HANDLER)"
}

# Prepares a stack on the usual ports that keeps its data and logs to the terminal. Call
# start_services after it.
stack_prepare_here() {
    FOREGROUND=yes
    # One line for each job that ends. A settings file may have its own filter.
    [[ -n ${LOG:-}${STORM_CONFIG:-} ]] || export LOG=info,storm_worker::jobs=debug
    stack_open
    [[ -d $ROOT/target/run ]] || mkdir -m 700 "$ROOT/target/run"
    export DB_URL=${DB_URL:-sqlite:$ROOT/target/run/storm.db}
    say "data      $(shown "$DB_URL"), kept"
    keep_secret "$ROOT/target/run/signing-secret"
    start_redis
}

# Runs a command beside the stack and returns its status. Stops the command if a service dies.
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
    # Nobody balances load here, and Ctrl-C should not wait, for a slow handler neither: what is
    # unfinished goes back to the table before STOP_SECONDS are over.
    export SHUTDOWN_DELAY=${SHUTDOWN_DELAY:-0s} DRAIN_TIMEOUT=${DRAIN_TIMEOUT:-20s}
    mkdir -p "$ROOT/target"
    STACK_DIR=$(mktemp -d "$ROOT/target/stack.XXXXXX")
}

# Called before a stack is stopped. A script that shows progress redefines it.
stack_closing() { :; }

stack_close() {
    local status=$? pid
    set +e                             # if one step fails, the rest is still cleaned up
    trap '' PIPE                       # the reader of our output may be gone
    stack_closing
    trap 'STOP_SECONDS=0' INT TERM HUP # a second signal: kill without waiting
    stop command
    stop api worker || status=1
    stop redis
    stop_postgres
    # A signal may come between the start of a process and its entry in PID.
    for pid in $(jobs -p); do kill -KILL -- "-$pid"; done 2>/dev/null
    remove_private_queue
    ((status == 0 || status > 128)) || keep_logs
    rm -rf "$STACK_DIR"
    exit "$status"
}

keep_logs() {
    mkdir -p "$ROOT/target/failed"
    mv "$STACK_DIR"/*.log "$ROOT/target/failed/" 2>/dev/null &&
        say "the stack's logs are kept in target/failed"
}

# Makes a new signing secret, unless CALLBACK_SIGNING_SECRETS is set. The secret is passed on in the
# environment only, and never printed.
have_secret() {
    if [[ -n ${CALLBACK_SIGNING_SECRETS+set} ]]; then
        say "signing   with CALLBACK_SIGNING_SECRETS"
    else
        CALLBACK_SIGNING_SECRETS=$(new_secret)
        export CALLBACK_SIGNING_SECRETS
        say "signing   with a new secret, deleted at the end"
    fi
}

# The same, with a secret in a file, so that later runs use it again.
#   keep_secret FILE
keep_secret() {
    if [[ -z ${CALLBACK_SIGNING_SECRETS+set} ]]; then
        [[ -s $1 ]] || (umask 077 && new_secret >"$1")
        CALLBACK_SIGNING_SECRETS=$(<"$1")
        export CALLBACK_SIGNING_SECRETS
        say "signing   with the secret in ${1#"$ROOT"/}"
    else
        have_secret
    fi
}

start_redis() {
    local server address
    if [[ ${REDIS_URL:-} == none ]]; then
        say "redis     none (REDIS_URL): the workers poll the table"
        return
    fi
    if [[ -n ${REDIS_URL:-} ]]; then
        # A private queue name, so that other stacks on this Redis don't share the stream.
        [[ -n ${QUEUE_NAME:-} ]] || PRIVATE_QUEUE=storm-${STACK_DIR##*.}
        export QUEUE_NAME=${QUEUE_NAME:-$PRIVATE_QUEUE}
        say "redis     $(shown_redis) (REDIS_URL), queue $QUEUE_NAME"
        return
    fi
    server=$("$ROOT/scripts/find-tool.sh" redis-server) ||
        die "there is no Redis: set REDIS_URL=none to run without one"
    address=127.0.0.1:$(free_port 28000)
    say "redis     $address, $server, without persistence"
    [[ -z $FOREGROUND ]] || say "          REDIS_URL=none runs without Redis"
    # Redis refuses to start if the environment names a locale that isn't installed.
    LC_ALL=C spawn "$server" --bind 127.0.0.1 --port "${address##*:}" --dir "$STACK_DIR" \
        --save '' --appendonly no >"$STACK_DIR/redis.log" 2>&1
    PID[redis]=$!
    await redis is_redis "$address"
    export REDIS_URL=redis://$address
}

shown_redis() { shown "$REDIS_URL"; }

# Prints a URL without a user's name and password.
shown() { printf '%s' "${1/'//'*@/'//***@'}"; }

# Fails with one line if no Redis answers at REDIS_URL. Call it before a build, which may take
# minutes.
require_redis() {
    local place=${REDIS_URL:-none} answer='[+-]*'
    case $place in
        redis://*) ;;
        # Its answer is encrypted, so a connection must do.
        rediss://*) answer='' ;;
        # none, or a URL that the services refuse or connect to themselves.
        *) return 0 ;;
    esac
    place=${place#*://} && place=${place%%[/?#]*} && place=${place##*@}
    [[ $place =~ :[0-9]+$ ]] || place+=:6379
    within 3 redis_answers "$(host_of "$place")" "$(port_of "$place")" "$answer" ||
        die "REDIS_URL=$(shown_redis): no Redis answers at $place: start it, correct REDIS_URL, or set REDIS_URL=none to run without one"
}

# An error is an answer too, such as that a password is missing.
#   redis_answers HOST PORT ANSWER
redis_answers() {
    if [[ -n $3 ]]; then answers "$1" "$2" 'PING\r\nQUIT\r\n' "$3"; else is_busy "$1" "$2"; fi
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

# Starts a command in a process group of its own. Ctrl-C then reaches this script only, which stops
# the processes in order.
spawn() {
    set -m
    "$@" </dev/null &
    set +m
}

# Stops processes and their children: SIGTERM to all, and SIGKILL after STOP_SECONDS. Fails if one
# had to be killed.
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
            say "$name did not stop in $((SECONDS - begun)) seconds: killed"
            killed=1
        fi
        kill -KILL -- "-$pid" 2>/dev/null || true
        unset "PID[$name]"
    done
    return "$killed"
}

# Waits until `PROBE ADDRESS` succeeds and the process lives. If it is dead, the answer came from
# another program on the same port.
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

# Prints a request for the running stack that can be pasted as it is.
suggest_request() {
    local url=$API_ADDR token='' path=async body='{"records": 10, "report_name": "Q1_Finance"}'
    [[ -z ${HANDLER:-} ]] || path=async/own body='{"payload": {"text": "as fast as a storm"}}'
    url=${url/#0.0.0.0:/127.0.0.1:}
    url=${url/#'[::]:'/'[::1]:'}
    if answers "$(host_of "$url")" "$(port_of "$url")" \
        'GET /requests/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' 'HTTP/1.? 401*'; then
        # shellcheck disable=SC2016 # the user's shell expands it
        token=' -H "authorization: Bearer $STORM_TOKEN"'
        say "token     set STORM_TOKEN to a token of API_TOKENS for the next line"
    fi
    say "try       curl -i 'http://$url/$path'$token -H 'content-type: application/json' -d '$body'"
}

#   require_free VARIABLE ADDRESS
require_free() {
    ! is_busy "$(host_of "$2")" "$(port_of "$2")" ||
        die "$2 is taken by another program: choose another: $1=127.0.0.1:$(free_port 20000)"
}

# Deletes the streams of the report and of handlers, `QUEUE_NAME:HANDLER`.
remove_private_queue() {
    [[ -n $PRIVATE_QUEUE ]] || return 0
    local streams
    mapfile -t streams < <(redis_command --scan --pattern "$PRIVATE_QUEUE*")
    [[ $(redis_command DEL "$PRIVATE_QUEUE" "${streams[@]}") == [0-9]* ]] ||
        say "the stream $PRIVATE_QUEUE stays in Redis: redis-cli could not delete it"
}

redis_command() { redis-cli -u "$REDIS_URL" --no-auth-warning "$@" 2>/dev/null; }

main() {
    case ${1:-} in
        run)
            [[ ${2:-} != --help && ${2:-} != -h ]] || { usage && exit; }
            (($# == 1)) || wrong "unexpected argument $2"
            take_handler
            stack_check_here
            need_binaries api worker
            stack_prepare_here
            start_services api worker
            suggest_request
            say "stop it with Ctrl-C"
            while services_alive; do sleep 0.5; done
            exit 1
            ;;
        with)
            shift
            (($# > 0)) || wrong "with: expected a command"
            [[ $1 != --help && $1 != -h ]] || { usage && exit; }
            require_redis
            need_binaries api worker
            stack_start api worker
            stack_run "$@"
            ;;
        --help | -h) usage ;;
        *) wrong "expected run, or with COMMAND...${1:+, not $1}" ;;
    esac
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
