#!/usr/bin/env bash
# Tests the reports of a demo, a sweep of storms, a chaos run, and of runs with little to show, in a
# real Chromium without a window: light and dark, 1280 and 360 pixels wide. The screenshots stay in
# target/screenshots. Without a browser it is skipped.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/browser.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/browser.sh"
read_arguments '' "$@"

find_browser 'the reports in a browser' || exit 0

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
