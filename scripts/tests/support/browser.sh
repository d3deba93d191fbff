#!/usr/bin/env bash
# The browser of a test. Sourced, never run.
# shellcheck disable=SC2034 # whoever sources this runs the programs
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

chromium='' chromedriver='' python=''

# Sets these to programs. If one is missing, says so of WHAT, and
# returns 1.
#   find_browser WHAT
find_browser() {
    local tool said
    for tool in chromium chromedriver; do
        # Its last line is the path, or why there is none.
        if ! said=$("$ROOT/scripts/find-tool.sh" "$tool" 2>&1); then
            echo "skipped: $1: ${said##*$'\n'}" >&2
            return 1
        fi
        printf -v "$tool" %s "${said##*$'\n'}"
    done
    # python3 in PATH may be the shim of a version manager without an installed version.
    if ! python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null); then
        echo "skipped: $1: python3 is not installed" >&2
        return 1
    fi
}
