#!/usr/bin/env bash
# Tests storm.sh with a stub of the load generator: progress, one table that fits the terminal, the
# exit status, and the report of all runs.
# shellcheck disable=SC2016 # the stub expands its own text
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work

# Writes what `storm-loadgen storm --csv` writes. A run of sync fails.
printf '#!/usr/bin/env bash\n%s\n' '
    printf "%s\n" "$*" >>"${0%/*}/calls"
    if [[ $1 == report ]]; then
        for file in "${@:4}"; do cat "$file"; done >"$3"
        exit
    fi
    while (($# > 0)); do
        case $1 in
            --mode) mode=$2 ;;
            --rate) rate=$2 ;;
            --csv) csv=$2 ;;
            --json) json=$2 ;;
            --fail-if) limit=$2 ;;
        esac
        shift
    done
    # A run that goes on until it is stopped.
    [[ $rate != 7 ]] || { sleep 600 & wait; }
    echo "$mode $rate" >"$json"
    [[ -e $csv ]] || echo mode,rate,offered,ok,refused,timeout,other_status,connection,wrong_answer,not_sent,p50_ms,p95_ms,p99_ms,max_ms,accepted,right,lost,wrong,failed,completion_p95_ms,outcome_unknown >"$csv"
    if [[ $mode == sync ]]; then
        echo "$mode,$rate,500000,123456,376544,0,0,0,0,0,4912.345,10001.5,10002.5,10003.5,,,,,,,2" >>"$csv"
        exit 1
    fi
    echo "$mode,$rate,500000,500000,0,0,0,0,0,0,1.25,2.5,3.75,4,500000,500000,0,0,0,505.123,0" >>"$csv"
    echo "a summary of its own"
    [[ -z ${limit:-} ]] || { echo "✗ fail if $limit: 3.75 ms" && exit 3; }
' >"$work/storm-loadgen"
chmod +x "$work/storm-loadgen"

# Sets output, errors and status.
#   storm [OPTION]...
storm() {
    status=0
    rm -f "$work/storm.csv" "$work/storm.html"
    output=$(STORM_BIN=$work "$ROOT/scripts/storm.sh" --api http://127.0.0.1:1 --csv "$work/storm.csv" \
        --rates 25,50000 "$@" 2>"$work/errors") || status=$?
    errors=$(<"$work/errors")
}

# No line of the output may be longer.
#   fits COLUMNS
fits() {
    local line
    while IFS= read -r line; do
        ((${#line} <= $1)) || fail "this line has ${#line} columns: $line"
    done <<<"$output"
}

test='the table is printed once, a line for each run, and progress is shown beside it'
storm
[[ $(grep -cE '^(ok |BAD) +(a?sync) ' <<<"$output") == 4 && $(grep -c '^run ' <<<"$output") == 1 ]] ||
    fail "$output"
[[ $output != *'a summary of its own'* && $output != *'[1/4]'* ]] || fail "$output"
for number in 1 2 3 4; do [[ $errors == *"[$number/4] "* ]] || fail "no progress of run $number: $errors"; done
[[ $errors != *'p50'* && $errors != *'505.1'* ]] || fail "the table is also in the progress: $errors"
echo "ok: $test"

test='the verdict comes first, and the exit status is that of the worst run'
((status == 1)) || fail "status $status"
[[ $output == *$'\nBAD: 2 of 4 runs '* ]] || fail "$output"
grep -qE '^BAD sync +50000 +123456 +376544 +2 +- ' <<<"$output" || fail "$output"
storm --modes async
[[ $status == 0 && $output == *$'\nok: every '* && $output != *BAD* ]] || fail "status $status: $output"
echo "ok: $test"

test='a run that meets a condition of --fail-if is told apart from one with wrong jobs'
storm --modes async -- --fail-if 'p99>1ms'
[[ $status == 3 && $output == *$'\nLIM: every answer and every job was right, but 2 of 2 '* ]] ||
    fail "status $status: $output"
(($(grep -cE '^LIM async ' <<<"$output") == 2)) || fail "$output"
(($(grep -cxF '✗ fail if p99>1ms: 3.75 ms' <<<"$output") == 2)) || fail "$output"
storm -- --fail-if 'p99>1ms'
[[ $status == 1 && $output == *$'\nBAD: 2 of 4 '* ]] || fail "status $status: $output"
echo "ok: $test"

test='the table fits a terminal of 80 columns, and one of 60'
storm
fits 80
grep -q ' p50 .* p99 ' <<<"$output" || fail "$output"
export COLUMNS=60
storm
fits 60
[[ $output == *' p95 '* && $output != *' p99 '* ]] || fail "$output"
unset COLUMNS
echo "ok: $test"

test='colours are for a terminal only, and not with NO_COLOR or TERM=dumb'
storm
[[ $output$errors != *$'\e'* ]] || fail 'colours in a pipe'
if command -v script >/dev/null; then
    # Runs the script on a terminal.
    #   terminal VARIABLE=VALUE
    terminal() {
        rm -f "$work/storm.csv" "$work/storm.html"
        STORM_BIN=$work script -qec "env $1 '$ROOT/scripts/storm.sh' --api http://127.0.0.1:1 \
            --csv '$work/storm.csv' --rates 25 --modes async" /dev/null </dev/null
    }
    output=$(terminal 'TERM=xterm NO_COLOR=')
    [[ $output == *$'\e[32mok '* ]] || fail "no colour on a terminal: $output"
    for plain in TERM=dumb 'TERM=xterm NO_COLOR=1'; do
        output=$(terminal "$plain")
        [[ $output == *ok* && ! $output =~ $'\e['[0-9\;]*m ]] || fail "colours with $plain: $output"
        [[ $plain != TERM=dumb || $output != *$'\e'* ]] || fail "escape codes with $plain: $output"
    done
else
    echo 'skipped: a terminal, because script is not installed'
fi
echo "ok: $test"

test='jobs of a handler are async, and have a payload instead of records'
printf '{}' >"$work/payload.json"
: >"$work/calls"
storm --handler thumbnails --payload "$work/payload.json"
[[ $status == 0 && $errors == *'async, 25 requests/s for 10s, payload payload.json'* ]] || fail "status $status: $errors"
(($(grep -c -- "--mode async .* --handler thumbnails --payload $work/payload.json " "$work/calls") == 2)) ||
    fail "$(<"$work/calls")"
! grep -q -- --records "$work/calls" || fail "$(<"$work/calls")"
# Each OPTIONS is refused with the text after the colon.
for wrong in '--handler a:need each other' "--payload $work/payload.json:need each other" \
    "--handler a --payload $work/none:no such file" \
    "--handler a --payload $work/payload.json --records 3:have a --payload instead" \
    "--handler a --payload $work/payload.json --modes sync,async:are async"; do
    read -ra options <<<"${wrong%:*}"
    storm "${options[@]}"
    [[ $status == 2 && $errors == *"${wrong##*:}"* ]] || fail "${wrong%:*}: status $status: $errors"
done
echo "ok: $test"

test='the report has all runs in order, and its path is the last line, also after a bad run'
storm
[[ $status == 1 && $(<"$work/storm.html") == $'sync 25\nasync 25\nsync 50000\nasync 50000' ]] ||
    fail "status $status: $(<"$work/storm.html")"
[[ ${errors##*$'\n'} == "report    ${work#"$ROOT"/}/storm.html" ]] || fail "$errors"
echo "ok: $test"

test='a sweep that is interrupted leaves a report of the runs that have ended'
rm -f "$work/storm.csv" "$work/storm.html"
: >"$work/calls"
set -m # a process group of its own, as on a terminal
STORM_BIN=$work env --default-signal=INT "$ROOT/scripts/storm.sh" --api http://127.0.0.1:1 \
    --csv "$work/storm.csv" --rates 25,7 >"$work/output" 2>"$work/errors" &
sweep=$!
set +m
until grep -q -- '--rate 7 ' "$work/calls"; do
    kill -0 "$sweep" 2>/dev/null || fail "it has ended: $(<"$work/errors")"
    sleep 0.05
done
kill -INT -- "-$sweep"
status=0
wait "$sweep" || status=$?
[[ $status == 130 && $(<"$work/storm.html") == $'sync 25\nasync 25' ]] ||
    fail "status $status: $(<"$work/errors")"
[[ $(tail -n 1 "$work/errors") == "report    ${work#"$ROOT"/}/storm.html" ]] || fail "$(<"$work/errors")"
echo "ok: $test"

test='a report is replaced, and no other file'
echo '<meta name="generator" content="storm-loadgen 0.1.0">' >"$work/earlier.html"
storm --modes async --html "$work/earlier.html"
[[ $status == 0 && $(<"$work/earlier.html") == $'async 25\nasync 50000' ]] || fail "status $status: $errors"
for file in "$work/storm-loadgen" "$work/none/report.html" "$work"; do
    storm --html "$file"
    [[ $status == 2 && $errors == *"--html $file: the "* ]] || fail "status $status: $errors"
done
echo "ok: $test"

test='a CSV that exists is not touched, not even through a link'
ln -s "$work/other" "$work/link"
for file in "$work/storm-loadgen" "$work/link"; do
    storm --csv "$file"
    [[ $status == 2 && $errors == *"$file: the file exists"* && ! -e $work/other ]] || fail "status $status: $errors"
done
echo "ok: $test"
