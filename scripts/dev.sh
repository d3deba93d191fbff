#!/usr/bin/env bash
# The stack of `make run`, from debug builds, rebuilt and restarted whenever a source file changes.
# What doesn't build leaves the old one running; what doesn't start waits for the next change.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

export STORM_BIN=$ROOT/target/debug

# Touched before each build, so that a change during the build is seen after it.
stamp=$ROOT/target/dev-stamp

# Folders count: only theirs tells of a file that went.
sources_changed() { [[ -n $(find "$ROOT"/{api,worker,shared} -newer "$stamp" -print -quit) ]]; }

rebuild() {
    mkdir -p "$ROOT/target"
    touch "$stamp"
    build dev api worker || { say "dev       that doesn't build; waiting for the next change" && return 1; }
}

restart() {
    stop api worker || true
    start_services api worker || give_up
}

# What runs half is ended, to be started afresh.
give_up() {
    stop api worker || true
    is_alive "${PID[redis]:-$$}" || die "without Redis there is no going on"
    say "dev       waiting for the next change"
}

stack_prepare_here
if rebuild; then restart; fi
while sleep 1; do
    if sources_changed; then
        if rebuild; then restart; fi
    elif ! services_alive; then
        give_up
    fi
done
