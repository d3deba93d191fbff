#!/usr/bin/env bash
# Tests show.sh: the page that it names answers while storms run at it, and Ctrl-C ends it and
# leaves nothing behind.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work
build_as_tests api worker loadgen

shown=''
# shellcheck disable=SC2317 # the trap calls it
clean_up() { [[ -z $shown ]] || kill -KILL -- "-$shown"; } 2>/dev/null

# Waits until the output has a line.
#   printed PATTERN
printed() {
    until grep -q "$1" "$work/output"; do
        kill -0 "$shown" 2>/dev/null || fail "it ended before it printed $1"
        sleep 0.1
    done
}

test='wrong rates are refused before anything is started'
status=0
RATES=20,none "$ROOT/scripts/show.sh" >"$work/output" 2>&1 || status=$?
[[ $status == 1 && $(<"$work/output") == 'show.sh: RATES=20,none: '* ]] || fail "status $status"
echo "ok: $test"

test='the page that it names answers during a storm'
# A process group of its own, as a terminal gives it. What runs in the background ignores SIGINT,
# and bash can't trap an ignored signal: `env` restores the default.
set -m
RATES=5 env --default-signal=INT "$ROOT/scripts/show.sh" >"$work/output" 2>&1 </dev/null &
shown=$!
set +m
printed '^look at '
printed '^wave '
address=$(sed -n 's,^look at *http://\(.*\)/$,\1,p' "$work/output")
folder=$(sed -n 's/^data *\([^,]*\),.*/\1/p' "$work/output")
[[ -d $ROOT/$folder ]] || fail "there is no folder $folder"
[[ $(ask "$address" GET /) == *'<!doctype html>'*Storm* ]] || fail 'no page answers'
# The storms have begun: a job was accepted, and a report was answered.
until [[ $(ask "$address" GET /metrics) == *'storm_api_answers_total{endpoint="sync",status="200"}'* ]]; do
    kill -0 "$shown" 2>/dev/null || fail 'it ended'
    sleep 0.2
done
echo "ok: $test"

test='Ctrl-C ends it and leaves nothing behind'
status=0
kill -INT -- "-$shown"
wait "$shown" || status=$?
group=$shown shown=''
((status == 130)) || fail "status $status, and not 130"
! kill -0 -- "-$group" 2>/dev/null || fail 'a process of it still runs'
[[ ! -e $ROOT/$folder ]] || fail "$folder is still there"
! is_busy "$(host_of "$address")" "$(port_of "$address")" || fail "something listens on $address"
echo "ok: $test"
