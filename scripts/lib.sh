#!/usr/bin/env bash
# What the scripts share: the project's root, how they speak, builds, ports and probes. Sourced, never run.
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

#   build release|dev PROJECT...
build() {
    local profile=$1 project
    shift
    for project; do
        # The scripts must know the place, whatever the caller's cargo is told; its other settings
        # are found from the working folder.
        (cd -- "$ROOT" && CARGO_TARGET_DIR=target cargo build --locked --profile "$profile" \
            --manifest-path "$project/Cargo.toml") || return
    done
}

# Sees that the projects' release binaries are in STORM_BIN; a STORM_BIN that is set is taken as it is.
#   need_binaries PROJECT...
need_binaries() {
    if [[ -n ${STORM_BIN:-} ]]; then
        say "binaries  $STORM_BIN, as STORM_BIN says; nothing is built"
        local project
        for project; do
            [[ -x $STORM_BIN/storm-$project ]] || die "STORM_BIN=$STORM_BIN: there is no storm-$project in it"
        done
    else
        build release "$@"
        export STORM_BIN=$ROOT/target/release
    fi
}

# Sends REQUEST, which must make the other end close, and succeeds if the answer begins like the pattern
# ANSWER. By bash's own /dev/tcp, for a fresh Debian has neither curl nor nc.
#   answers HOST PORT REQUEST ANSWER
answers() (
    exec 3<>"/dev/tcp/$1/$2" && printf '%b' "$3" >&3 || return 1
    # To the end, or the other end would see a reset. `read` fails there, with the answer read.
    IFS= read -rd '' -t2 answer <&3 || true
    # shellcheck disable=SC2053 # the right side is meant as a pattern
    [[ $answer == $4 ]]
) 2>/dev/null

# Whether what /healthz answers begins like the pattern ANSWER.
#   health_is HOST:PORT ANSWER
health_is() {
    answers "$(host_of "$1")" "$(port_of "$1")" \
        'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2"
}

#   is_healthy HOST:PORT
is_healthy() { health_is "$1" 'HTTP/1.? 200*'; }

#   is_redis HOST:PORT
is_redis() { answers "$(host_of "$1")" "$(port_of "$1")" 'PING\r\nQUIT\r\n' '+PONG*'; }

#   is_busy HOST PORT
is_busy() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

port_of() { printf '%s' "${1##*:}"; }

host_of() {
    local host=${1%:*}
    host=${host#[}
    printf '%s' "${host%]}"
}

# Prints a free port among the 4000 from BASE on. Different bases never give the same port twice, and
# below 32768 no outgoing connection takes the port before its owner binds it.
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
