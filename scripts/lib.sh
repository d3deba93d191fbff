#!/usr/bin/env bash
# Shared by the scripts: the project's root, arguments, messages, builds, ports and probes. Sourced,
# never run.
set -euo pipefail

# Associative arrays came with 4.0; before 4.4 `set -u` takes an empty array for an unset variable.
# bash reads a file command by command, so an older one stops here, before syntax that it lacks.
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "${0##*/}: bash $BASH_VERSION is too old: install bash 4.4 or newer (macOS: brew install bash)" >&2
    exit 1
fi

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# Succeeds if what is written to standard output may have colours.
has_colours() { [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; }

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# Ends a script that was called wrongly.
wrong() {
    say "${0##*/}: $*; see $0 --help"
    exit 2
}

# Checks the ARGUMENTs of a script that takes as many as USAGE has words. --help and -h print the
# comment at the top of the script, and exit. Call it before anything is started.
#   read_arguments USAGE ARGUMENT...
read_arguments() {
    local usage=$1 words argument
    shift
    for argument; do
        case $argument in
            --help | -h) show_help "$usage" && exit ;;
        esac
    done
    for argument; do
        [[ $argument != -* ]] || wrong "there is no option $argument"
    done
    read -ra words <<<"$usage"
    (($# <= ${#words[@]})) || wrong "unexpected argument ${*:${#words[@]}+1:1}"
}

#   show_help USAGE
show_help() {
    printf 'usage: %s%s\n\n' "$0" "${1:+ $1}"
    awk 'NR == 1 || /^# shellcheck / { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
}

# Prints a field of the project's Cargo.toml.
#   manifest_field KEY PROJECT
manifest_field() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" "$ROOT/$2/Cargo.toml"; }

# Compares the first two numbers of versions: 2.8.0 is not at least 2.18. What follows a number is
# no part of it, as in 2.19pre20230921.
#   is_at_least VERSION NEEDED
is_at_least() {
    local has=() needs=()
    [[ $1 =~ ^([0-9]+)\.([0-9]+) ]] || return
    has=("${BASH_REMATCH[@]:1}")
    [[ $2 =~ ^([0-9]+)\.([0-9]+) ]] || return
    needs=("${BASH_REMATCH[@]:1}")
    ((10#${has[0]} * 1000 + 10#${has[1]} >= 10#${needs[0]} * 1000 + 10#${needs[1]}))
}

# Prints the program that runs Nix without access to nixpkgs, if there is one.
standin() {
    local program=${NIXPKGS_STANDIN-$ROOT/../shared/nix-standin/with-standin}
    [[ ! -x $program ]] || printf '%s' "$program"
}

# Ends the script with one line if this machine can't build.
need_cargo() {
    "$ROOT/scripts/find-tool.sh" cargo >/dev/null || exit 1
    command -v "${CC:-cc}" >/dev/null ||
        die "there is no C compiler ${CC:-cc}: install one (Debian: gcc; macOS: xcode-select --install)"
}

# Succeeds if WITH_POSTGRES is yes: programs get the engine for PostgreSQL, which few need. Ends the
# script if it is neither yes nor no.
with_postgres() {
    case ${WITH_POSTGRES:-no} in
        yes) ;;
        no) return 1 ;;
        *) die "WITH_POSTGRES=$WITH_POSTGRES: expected yes or no" ;;
    esac
}

# Succeeds if WITH_TRACES is yes: the API and the worker get the export of traces, as the images
# have it. Ends the script if it is neither yes nor no.
with_traces() {
    case ${WITH_TRACES:-no} in
        yes) ;;
        no) return 1 ;;
        *) die "WITH_TRACES=$WITH_TRACES: expected yes or no" ;;
    esac
}

# Sets WITH_POSTGRES to yes, which WHAT needs.
#   need_postgres WHAT
need_postgres() {
    with_postgres || [[ -z ${WITH_POSTGRES:-} ]] || die "WITH_POSTGRES=no: $1 needs WITH_POSTGRES=yes"
    export WITH_POSTGRES=yes
}

#   has_feature PROJECT FEATURE
has_feature() { grep -q "^$2 = " "$ROOT/$1/Cargo.toml"; }

# Sets features to cargo's options for the features of a project, as WITH_POSTGRES and WITH_TRACES
# say.
#   choose_features PROJECT
choose_features() {
    local chosen=()
    if with_postgres && has_feature "$1" postgres; then chosen+=(postgres); fi
    if with_traces && has_feature "$1" traces; then chosen+=(traces); fi
    features=()
    if ((${#chosen[@]} > 0)); then
        features=(--features "$(IFS=, && echo "${chosen[*]}")")
    fi
}

# Sets features to those of the tests and of the lints: all that the project has.
#   choose_all_features PROJECT
choose_all_features() { WITH_POSTGRES=yes WITH_TRACES=yes choose_features "$1"; }

# Builds programs.
#   build release|dev PROJECT...
build() {
    local profile=$1 project features
    shift
    need_cargo
    for project; do
        choose_features "$project"
        # The target folder is fixed, because the scripts run the binaries from it. The rest of the
        # configuration, .cargo/config.toml, is found from the working folder.
        (cd -- "$ROOT" && CARGO_TARGET_DIR=target cargo build --locked --profile "$profile" \
            --manifest-path "$project/Cargo.toml" "${features[@]}") || return
    done
}

# Sets STORM_BIN to target/debug, and builds the projects' programs there. They have the features of
# the tests, because `make test` has built those before. A STORM_BIN that is already set is used as
# it is.
#   build_as_tests PROJECT...
build_as_tests() {
    [[ -z ${STORM_BIN:-} ]] || return 0
    local project features
    need_cargo
    for project; do
        choose_all_features "$project"
        (cd -- "$ROOT" && CARGO_TARGET_DIR=target cargo test --quiet --no-run --locked \
            --manifest-path "$project/Cargo.toml" "${features[@]}") || return
    done
    export STORM_BIN=$ROOT/target/debug
}

# Sets WITH_POSTGRES if STORE or DB_URL says so. Ends the script if one of the three is wrong.
check_store() {
    with_postgres || true
    case ${STORE:-sqlite} in
        sqlite) [[ ${DB_URL:-} != postgres* ]] || need_postgres 'this DB_URL' ;;
        postgres) need_postgres STORE=postgres ;;
        *) die "STORE=$STORE: expected sqlite or postgres" ;;
    esac
}

# Sets STORM_BIN to a folder with the projects' release binaries, which it builds. A STORM_BIN that
# is already set is used as it is.
#   need_binaries PROJECT...
need_binaries() {
    check_store
    with_traces || true
    if [[ -n ${STORM_BIN:-} ]]; then
        say "binaries  $STORM_BIN (STORM_BIN); nothing is built"
        local project
        for project; do
            [[ -x $STORM_BIN/storm-$project ]] || die "STORM_BIN=$STORM_BIN: the folder has no program storm-$project"
        done
    else
        build release "$@"
        export STORM_BIN=$ROOT/target/release
    fi
}

# Prints a new secret for CALLBACK_SIGNING_SECRETS.
new_secret() { printf 'whsec_%s\n' "$(head -c 32 /dev/urandom | base64)"; }

# Sends REQUEST, which must make the server close the connection, and succeeds if the answer matches
# the pattern ANSWER. Uses bash's /dev/tcp, because a fresh Debian has neither curl nor nc.
#   answers HOST PORT REQUEST ANSWER
answers() (
    exec 3<>"/dev/tcp/$1/$2" && printf '%b' "$3" >&3 || return 1
    # Read to the end, or the server would see a reset. `read` fails there, but sets the variable.
    IFS= read -rd '' -t2 answer <&3 || true
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $answer == $4 ]]
) 2>/dev/null

# Sends a request, with BODY as JSON, and prints the answer.
#   ask HOST:PORT METHOD PATH [BODY]
ask() (
    request="$2 $3 HTTP/1.1"$'\r\nHost: localhost\r\nConnection: close\r\n'
    (($# < 4)) || request+=$'Content-Type: application/json\r\n'"Content-Length: ${#4}"$'\r\n'
    exec 3<>"/dev/tcp/$(host_of "$1")/$(port_of "$1")" || exit
    printf '%s\r\n%s' "$request" "${4:-}" >&3
    cat <&3
)

# Succeeds if the answer of /healthz matches the pattern ANSWER.
#   health_is HOST:PORT ANSWER
health_is() {
    answers "$(host_of "$1")" "$(port_of "$1")" \
        'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2"
}

#   is_healthy HOST:PORT
is_healthy() { health_is "$1" 'HTTP/1.? 200*'; }

#   is_redis HOST:PORT
is_redis() { answers "$(host_of "$1")" "$(port_of "$1")" 'PING\r\nQUIT\r\n' '+PONG*'; }

# Runs COMMAND, and ends it and fails if it takes longer than SECONDS: a connection to an address
# that nothing answers for can take minutes. macOS has no `timeout`.
#   within SECONDS COMMAND...
within() {
    local limit=$1 begun=$SECONDS pid
    shift
    "$@" </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ((SECONDS - begun <= limit)); do sleep 0.05; done
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null
}

#   is_busy HOST PORT
is_busy() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

port_of() { printf '%s' "${1##*:}"; }

host_of() {
    local host=${1%:*}
    host=${host#[}
    printf '%s' "${host%]}"
}

# Prints a free port from BASE to BASE + 3999. Bases that are 4000 apart never give the same port.
# Below 32768, where Linux's ephemeral ports begin, no outgoing connection takes the port before its
# owner binds it.
#   free_port BASE
free_port() {
    local port try
    for try in {1..50}; do
        port=$(($1 + (RANDOM + try) % 4000))
        is_busy 127.0.0.1 "$port" && continue
        printf '%s' "$port"
        return
    done
    die "no free port between $1 and $(($1 + 3999))"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"
