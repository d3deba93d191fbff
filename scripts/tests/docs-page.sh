#!/usr/bin/env bash
# Tests the reference of the API, /docs, beside a stack with tokens in a real Chromium without a
# window: light and dark, 1280 and 360 pixels wide; and the form that sends a request. The
# screenshots stay in target/screenshots. Without a browser it is skipped.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/browser.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/browser.sh"
read_arguments '' "$@"

find_browser 'the reference in a browser' || exit 0

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
