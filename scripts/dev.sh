#!/usr/bin/env bash
# Runs the stack of `make run` from debug builds, and rebuilds and restarts it when a source file
# changes. If the build fails, the old programs keep running. If a program fails to start, the
# script waits for the next change.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

read_arguments '' "$@"

export STORM_BIN=$ROOT/target/debug

# Touched before each build, so that a change during the build triggers another one.
stamp=$ROOT/target/dev-stamp

# Folders too: a deleted file changes only the time of its folder.
sources_changed() { [[ -n $(find "$ROOT"/{api,worker,shared} -newer "$stamp" -print -quit) ]]; }

rebuild() {
    mkdir -p "$ROOT/target"
    touch "$stamp"
    build dev api worker || { say "dev       the build failed; waiting for the next change" && return 1; }
}

restart() {
    stop api worker || true
    if start_services api worker; then suggest_request; else give_up; fi
}

# Stops the service that is still running: the next change starts both.
give_up() {
    stop api worker || true
    is_alive "${PID[redis]:-$$}" || die "Redis has died: start again"
    say "dev       waiting for the next change"
}

take_handler
check_store
stack_check_here
need_cargo
stack_prepare_here
if rebuild; then restart; fi
while sleep 1; do
    if sources_changed; then
        if rebuild; then restart; fi
    elif ! services_alive; then
        give_up
    fi
done
