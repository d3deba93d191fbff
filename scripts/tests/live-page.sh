#!/usr/bin/env bash
# Tests the live page in a real Chromium without a window: during a storm, light and dark, 1280 and
# 360 pixels wide; its buttons, a dead database, a hidden tab, a restart of the API, and its views
# with tokens. The screenshots stay in target/screenshots. Without a browser it is skipped.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/browser.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/browser.sh"
read_arguments '' "$@"

find_browser 'the live page in a browser' || exit 0

make_work
build_as_tests api worker loadgen
export CALLBACK_ALLOW=127.0.0.1/32,::1/128

# Runs live_page.py beside a new stack. The API is restarted when the test asks for it, by a file.
#   look_at VIEW
look_at() {
    # In a subshell: a stack ends with its shell.
    (
        # shellcheck source-path=SCRIPTDIR source=../stack.sh
        source "$ROOT/scripts/stack.sh"
        stack_start api worker >"$work/stack.log" 2>&1
        PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/scripts/tests/support/live_page.py" "$1" "$chromium" \
            "$chromedriver" "$ROOT/target/screenshots" "$STORM_API" "$STORM_BIN/storm-loadgen" "$work" &
        looking=$!
        while is_alive "$looking"; do
            if [[ -e $work/stop-api ]]; then
                stop api
                rm "$work/stop-api"
            fi
            if [[ -e $work/start-api ]]; then
                start_service api
                await api is_healthy "$API_ADDR"
                rm "$work/start-api"
            fi
            sleep 0.1
        done
        wait "$looking"
    )
}

test='the live page is right in a browser during a storm, and after a restart of the API'
look_at storm || fail 'see above'
echo "ok: $test"

# The tokens of the tests; the settings have their hashes.
hash_of() { printf '%s' "$1" | sha256sum | cut -d ' ' -f 1; }

test='with tokens the live page asks for one, and shows what its holder may see'
API_TOKENS=shop:$(hash_of "$(printf 's%.0s' {1..43})"),other:$(hash_of "$(printf 'o%.0s' {1..43})")
ADMIN_TOKENS=ops:$(hash_of "$(printf 'a%.0s' {1..43})")
export API_TOKENS ADMIN_TOKENS
look_at tokens || fail 'see above'
echo "ok: $test"
