#!/usr/bin/env bash
# Starts a PostgreSQL server for tests and benchmarks, in a folder of its own under /tmp, and stops
# it; and a PgBouncer before it. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# Runs a COMMAND as the server's user. PostgreSQL refuses to run as root, so root drops to the user
# that its package has made, or else to nobody.
#   as_server_user COMMAND...
as_server_user() {
    if ((EUID == 0)); then
        setpriv --reuid="$POSTGRES_USER" --regid="$(id -g "$POSTGRES_USER")" --init-groups "$@"
    else
        "$@"
    fi
}

# Starts a server at a free port of 127.0.0.1. What it holds is thrown away, so it runs without
# fsync, unless it is measured. Sets TEST_POSTGRES to its address, with a role that may do
# everything and has no password, and POSTGRES_DIR to its folder.
#   start_postgres with|without
start_postgres() {
    local port program tries fsync=on
    [[ $1 == with ]] || fsync=off
    # By bash: in Nix's sandbox there is no /usr/bin/env, which the script names.
    program=$(bash "$ROOT/scripts/find-tool.sh" postgres) || return
    POSTGRES_BIN=$(dirname -- "$(readlink -f -- "$program")")
    POSTGRES_USER=postgres
    id "$POSTGRES_USER" >/dev/null 2>&1 || POSTGRES_USER=nobody
    # Not in target/: another user may not be able to reach that.
    POSTGRES_DIR=$(mktemp -d /tmp/storm-postgres.XXXXXX)
    ((EUID != 0)) || chown "$POSTGRES_USER" "$POSTGRES_DIR"
    (
        cd /
        as_server_user "$POSTGRES_BIN/initdb" --pgdata "$POSTGRES_DIR/data" --username storm \
            --auth trust --encoding UTF8 --no-locale --no-sync >"$POSTGRES_DIR/initdb.log"
    ) || { stop_postgres && die "initdb failed"; }
    for ((tries = 1; ; tries++)); do
        port=$(free_port 22000)
        # 300 connections: tests run side by side, and each store has a pool.
        (
            cd /
            as_server_user "$POSTGRES_BIN/pg_ctl" --pgdata "$POSTGRES_DIR/data" --wait --silent \
                --log "$POSTGRES_DIR/log" --options "-p $port -k $POSTGRES_DIR -c fsync=$fsync \
                -c listen_addresses=127.0.0.1 -c max_connections=300 -c deadlock_timeout=200ms" start
        ) >/dev/null && break
        # Another process may have taken the port.
        ((tries < 3)) || { cat "$POSTGRES_DIR/log" >&2; stop_postgres; die "PostgreSQL does not start"; }
    done
    # For tests that start servers of their own.
    export POSTGRES_BIN
    ((EUID != 0)) || export POSTGRES_USER
    export TEST_POSTGRES=postgres://storm@127.0.0.1:$port
    say "postgres  127.0.0.1:$port, $program, $1 fsync"
}

# Starts a PgBouncer in transaction mode before the server. Sets TEST_POOLER to its address.
start_pooler() {
    local port server=${TEST_POSTGRES##*:}
    PGBOUNCER=$("$ROOT/scripts/find-tool.sh" pgbouncer) || return
    export PGBOUNCER
    port=$(free_port 22000)
    echo '"storm" ""' >"$POSTGRES_DIR/users"
    cat >"$POSTGRES_DIR/pgbouncer.ini" <<EOF
[databases]
* = host=127.0.0.1 port=$server
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $POSTGRES_DIR/users
pool_mode = transaction
default_pool_size = 5
max_client_conn = 1000
EOF
    (cd / && exec_pooler) 2>"$POSTGRES_DIR/pgbouncer.log" &
    POOLER_PID=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$POOLER_PID" 2>/dev/null ||
            { cat "$POSTGRES_DIR/pgbouncer.log" >&2; die "PgBouncer does not start"; }
        sleep 0.05
    done
    export TEST_POOLER=postgres://storm@127.0.0.1:$port
    say "pgbouncer 127.0.0.1:$port, $PGBOUNCER, in transaction mode"
}

# In the place of this shell, so that its process is the one to be killed.
exec_pooler() {
    ((EUID == 0)) || exec "$PGBOUNCER" --quiet "$POSTGRES_DIR/pgbouncer.ini"
    exec setpriv --reuid="$POSTGRES_USER" --regid="$(id -g "$POSTGRES_USER")" --init-groups \
        "$PGBOUNCER" --quiet "$POSTGRES_DIR/pgbouncer.ini"
}

stop_postgres() {
    [[ -n ${POSTGRES_DIR:-} ]] || return 0
    [[ -z ${POOLER_PID:-} ]] || kill "$POOLER_PID" 2>/dev/null || true
    # There is no server if it was killed.
    (cd / && as_server_user "$POSTGRES_BIN/pg_ctl" --pgdata "$POSTGRES_DIR/data" --silent \
        --mode immediate stop) 2>/dev/null || true
    rm -rf -- "$POSTGRES_DIR"
    POSTGRES_DIR=''
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"
