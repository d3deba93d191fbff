#!/usr/bin/env bash
# The folder and the end of a test. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

test='' # what is being tested, for `fail`
work='' # the test's folder

# Sets work to a new folder, which is deleted at exit. Call it after read_arguments.
make_work() {
    mkdir -p "$ROOT/target"
    work=$(mktemp -d "$ROOT/target/test.XXXXXX")
    trap 'clean_up || true; rm -rf "$work"' EXIT
}

# Called before the folder is deleted. A test that starts processes redefines it.
clean_up() { :; }

# Ends the test. What it tests may have left its output in $work/output.
#   fail WHAT_HAPPENED
fail() {
    if [[ -s $work/output ]]; then
        echo "FAILED: ${test:+$test: }$*; the output:"
        cat "$work/output"
    else
        echo "FAILED: ${test:+$test: }$*"
    fi
    exit 1
}
