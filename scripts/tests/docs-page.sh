#!/usr/bin/env bash
# Tests the reference of the API, /docs, beside a stack with tokens in a real Chromium without a
# window: light and dark, 1280 and 360 pixels wide; and the form that sends a request. The
# screenshots stay in target/screenshots. Without a browser it is skipped.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"

# The last line of find-tool.sh is the path, or why there is none.
#   browser_tool TOOL
browser_tool() {
    local said
    if said=$("$ROOT/scripts/find-tool.sh" "$1" 2>&1); then
        printf '%s' "${said##*$'\n'}"
    else
        echo "skipped: the reference in a browser: ${said##*$'\n'}" >&2
        return 1
    fi
}
chromium=$(browser_tool chromium) || exit 0
chromedriver=$(browser_tool chromedriver) || exit 0
# python3 in PATH may be the shim of a version manager without an installed version.
python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    { echo 'skipped: the reference in a browser: python3 is not installed' && exit; }

make_work
build_as_tests api worker

test='the reference is right in a browser, and its form sends requests'
(
    { read -r STORM_TOKEN && read -r API_TOKENS; } < <("$STORM_BIN/storm-api" token new reader 2>/dev/null)
    export STORM_TOKEN API_TOKENS REDIS_URL=none PYTHONDONTWRITEBYTECODE=1
    stack_start api worker
    stack_run "$python" "$ROOT/scripts/tests/support/docs_page.py" "$chromium" "$chromedriver" \
        "$ROOT/target/screenshots"
) >"$work/output" 2>&1 || fail "status $?"
grep '^ok: ' "$work/output"
echo "ok: $test"
