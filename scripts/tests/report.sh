#!/usr/bin/env bash
# Tests the reports of a demo, a sweep of storms, a chaos run, and of runs with little to show, in a
# real Chromium without a window: light and dark, 1280 and 360 pixels wide. The screenshots stay in
# target/screenshots. Without a browser it is skipped.
set -euo pipefail
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
        echo "skipped: the reports in a browser: ${said##*$'\n'}" >&2
        return 1
    fi
}
chromium=$(browser_tool chromium) || exit 0
chromedriver=$(browser_tool chromedriver) || exit 0
# python3 in PATH may be the shim of a version manager without an installed version.
python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null) ||
    { echo 'skipped: the reports in a browser: python3 is not installed' && exit; }

make_work
build_as_tests api worker loadgen

test='make demo ends with the path of its report'
CALLBACK_PORT=$(free_port 12000) "$ROOT/scripts/demo.sh" >"$work/output" 2>&1 || fail "status $?"
[[ $(tail -n 1 "$work/output") == 'report    target/demo.html' ]] || fail 'another last line'
cp "$ROOT/target/demo.html" "$work/demo.html"
echo "ok: $test"

test='a sweep of storms writes a report of all of them'
"$ROOT/scripts/storm.sh" --rates 20,60,180 --duration 2s --records 20 --csv "$work/storm.csv" \
    >"$work/output" 2>&1 || fail "status $?"
[[ -s $work/storm.html && $(tail -n 1 "$work/output") == "report    "*/storm.html ]] || fail 'no report'
echo "ok: $test"

test='a report is made of results that were kept'
"$python" "$ROOT/scripts/tests/support/results.py" "$work"
reports=(chaos refused one-point interrupted nothing)
for name in "${reports[@]}"; do
    "$STORM_BIN/storm-loadgen" report --html "$work/$name.html" "$work/$name.json" \
        >"$work/output" 2>&1 || fail "$name: status $?"
done
: >"$work/output"
echo "ok: $test"

test='each report is right in a browser'
PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/scripts/tests/support/report.py" "$chromium" "$chromedriver" \
    "$ROOT/target/screenshots" "$work"/{demo,storm,chaos,refused,one-point,interrupted,nothing}.html ||
    fail 'see above'
echo "ok: $test"
