#!/usr/bin/env bash
# Runs a load test at each rate in each mode. Shows progress on standard error and one table on
# standard output, a line when its run ends, and writes a CSV and a report with plots.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

rates=25,50,100,200
modes=''
duration=10s
records=''
handler=''
payload=''
api=''
callback_port=''
csv=$ROOT/target/storm-$(date +%Y%m%d-%H%M%S).csv
html='' # that of the CSV, with another ending
more=()
job=() size='' # what check_options makes of --records, or of --handler and --payload

help() {
    cat <<HELP
usage: scripts/storm.sh [OPTION]... [-- MORE...]

  --rates R,...         requests per second, one run for each, 1 to 50000 [$rates]
  --modes M,...         sync, async or sync,async [sync,async; with --handler, async]
  --duration D          of each run: 500ms, 10s, 2m [$duration]
  --records N           the records of each report, 10 ms each: 1 to 49 with sync, else to 100000
                        [10]
  --handler NAME        jobs of this handler instead of reports; a new stack takes its settings from
                        the environment: HANDLERS__NAME__URL=http://127.0.0.1:9100/
  --payload FILE        the payload of each job of the handler: JSON
  --api URL             a running stack, on a host that you may put under load
                        [a new stack on free loopback ports, stopped at the end]
  --callback-port PORT  the port that receives callbacks [8001 with --api, else a free port]
  --csv FILE            a new file for all figures of all runs [target/storm-DATE-TIME.csv]
  --html FILE           a report with plots of all runs; an earlier one is replaced [the name of the
                        CSV, with .html]
  --help

If the API has API_TOKENS, set STORM_TOKEN to a token. Options after -- are passed to every run of
storm-loadgen, such as --timeout 3s, --poll or --fail-if 'p99>50ms'. A new stack reads its settings
from the environment: SYNC_THREADS=8 scripts/storm.sh --rates 50,100. With STORE=postgres, it has a
PostgreSQL server of its own in place of SQLite.

Exit status: 0 if every job of every run was delivered correctly, 1 if not, 2 for a wrong option, 3
if it was, but a condition of --fail-if was met.
HELP
}

read_options() {
    local option
    for option; do
        case $option in
            --) break ;;
            --help | -h) help && exit ;;
        esac
    done
    while (($# > 0)); do
        case $1 in
            --) more=("${@:2}") && return ;;
            --rates | --modes | --duration | --records | --handler | --payload | --api | --callback-port | --csv | --html)
                (($# > 1)) || wrong "$1 needs a value"
                ;;
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
            -*) wrong "there is no option $1" ;;
            *) wrong "unexpected argument $1" ;;
        esac
        case $1 in
            --rates) rates=$2 ;;
            --modes) modes=$2 ;;
            --duration) duration=$2 ;;
            --records) records=$2 ;;
            --handler) handler=$2 ;;
            --payload) payload=$2 ;;
            --api) api=$2 ;;
            --callback-port) callback_port=$2 ;;
            --csv) csv=$2 ;;
            --html) html=$2 ;;
        esac
        shift 2
    done
}

# Succeeds if TEXT is a whole number from LEAST to MOST.
#   is_number TEXT LEAST MOST
is_number() { [[ $1 =~ ^[1-9][0-9]{0,6}$ ]] && (($1 >= $2 && $1 <= $3)); }

# Checks all options before anything is built or started.
check_options() {
    local rate mode most=100000
    [[ $rates =~ ^[0-9]+(,[0-9]+)*$ ]] ||
        wrong "--rates $rates: expected numbers separated by commas, such as 50,100"
    for rate in ${rates//,/ }; do
        is_number "$rate" 1 50000 || wrong "--rates $rates: $rate is not a whole number from 1 to 50000"
    done
    if [[ -n $handler$payload ]]; then
        modes=${modes:-async}
        [[ -n $handler && -n $payload ]] || wrong "--handler and --payload need each other"
        [[ -f $payload && -r $payload ]] || wrong "--payload $payload: there is no such file, or it is not readable"
        [[ -z $records ]] || wrong "--records $records: jobs of a handler have a --payload instead"
        [[ ,$modes, != *,sync,* ]] || wrong "--modes $modes: jobs of a handler are async"
        job=(--handler "$handler" --payload "$payload")
        size="payload ${payload##*/}"
    else
        modes=${modes:-sync,async} records=${records:-10}
        [[ ,$modes, != *,sync,* ]] || most=49
        is_number "$records" 1 "$most" ||
            wrong "--records $records: expected a whole number from 1 to $most with --modes $modes"
        job=(--records "$records")
        size="$records records"
    fi
    [[ $modes =~ ^(sync|async)(,(sync|async))*$ ]] ||
        wrong "--modes $modes: expected sync, async or sync,async"
    [[ $duration =~ ^[1-9][0-9]*(ms|s|m)$ ]] ||
        wrong "--duration $duration: expected a duration such as 500ms, 10s or 2m"
    [[ -z $api || $api == http://?* ]] || wrong "--api $api: expected an http:// URL"
    [[ -z $callback_port ]] || is_number "$callback_port" 1 65535 ||
        wrong "--callback-port $callback_port: expected 1 to 65535"
    [[ ! -e $csv && ! -L $csv ]] || wrong "--csv $csv: the file exists"
    mkdir -p "$ROOT/target"
    [[ -w $(dirname -- "$csv") ]] || wrong "--csv $csv: the folder does not exist or is not writable"
    html=${html:-${csv%.csv}.html}
    [[ -d $(dirname -- "$html") && -w $(dirname -- "$html") ]] ||
        wrong "--html $html: the folder does not exist or is not writable"
    [[ ! -e $html ]] || head -c 256 -- "$html" 2>/dev/null | grep -q 'content="storm-loadgen ' ||
        wrong "--html $html: the file exists and is no report of storm-loadgen"
}

prepare() {
    if [[ -n $api ]]; then
        need_binaries loadgen
        stack_open # starts no stack, but stops the runs on Ctrl-C
    else
        require_redis
        need_binaries api worker loadgen
        export CALLBACK_ALLOW=127.0.0.1/32,::1/128
        stack_start api worker
        api=$STORM_API
        callback_port=${callback_port:-$(free_port 16000)}
    fi
    [[ -z $callback_port ]] || more+=(--listen "localhost:$callback_port")
}

# Runs every mode at every rate. A run with bad answers is a result; a run that writes no line to
# the CSV did not start, and ends the sweep.
sweep() {
    local rate mode status number=0 lines summary=$STACK_DIR/summary.txt
    total=$(($(wc -w <<<"${rates//,/ }") * $(wc -w <<<"${modes//,/ }")))
    for rate in ${rates//,/ }; do
        for mode in ${modes//,/ }; do
            begin_progress "[$((++number))/$total] $mode, $rate requests/s for $duration, $size"
            lines=$(count_lines) status=0
            stack_run "$STORM_BIN/storm-loadgen" storm --mode "$mode" --rate "$rate" \
                --duration "$duration" "${job[@]}" --api "$api" --csv "$csv" \
                --json "$STACK_DIR/$number.json" "${more[@]}" >"$summary" || status=$?
            end_progress
            (($(count_lines) > lines)) || die "the run could not start"
            case $status in
                0) ;;
                "$EXCEEDED") over=$((over + 1)) ;;
                *) bad=$((bad + 1)) ;;
            esac
            ((number > 1)) || table_header
            table_row "$status"
            grep '^✗ fail if ' "$summary" || true
        done
    done
}

# A line for each run. On a terminal, it stands above what storm-loadgen shows of the run, and then
# makes room for the table.
begin_progress() {
    if [[ -t 2 && ${TERM:-dumb} != dumb ]]; then
        printf '%s\n' "${1:0:width-1}" >&2
        shown=1
    else
        say "$1"
    fi
}

end_progress() {
    ((shown)) || return 0
    shown=0
    printf '\e[A\r\e[2K' >&2
}

# Of the runs in order.
report() {
    local number results=()
    reported=1
    for ((number = 1; number <= total; number++)); do
        # Options after -- may have named another file.
        [[ ! -s $STACK_DIR/$number.json ]] || results+=("$STACK_DIR/$number.json")
    done
    ((${#results[@]} > 0)) || return 0
    "$STORM_BIN/storm-loadgen" report --html "$html" "${results[@]}"
    say "report    ${html#"$ROOT"/}"
}

count_lines() { if [[ -e $csv ]]; then wc -l <"$csv"; else echo 0; fi; }

# --- The table -----------------------------------------------------------------------------------

# The columns of the terminal: below 80, the table leaves out two percentiles.
terminal_width() {
    local columns=${COLUMNS:-}
    if [[ -z $columns && (-t 1 || -t 2) ]]; then
        read -r _ columns < <(stty size 2>/dev/null </dev/tty) || true
    fi
    if [[ $columns =~ ^[1-9][0-9]{0,3}$ ]]; then printf '%s' "$columns"; else printf 80; fi
}

table_header() { row run mode rate ok refused failed bad p50 p95 p99 callback; }

# Prints the CSV's last line, which is of the run that just ended.
#   table_row STATUS
table_row() {
    local mode rate ok refused failed bad p50 p95 p99 callback verdict=ok
    read -r mode rate ok refused failed bad p50 p95 p99 callback < <(awk -F , '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i }
        { line = $0 }
        function of(name) { return $column[name] == "" ? "-" : $column[name] }
        function ms(name) { return $column[name] == "" ? "-" : sprintf("%.1f", $column[name]) }
        END {
            $0 = line
            failed = of("timeout") + of("other_status") + of("connection") + of("wrong_answer")
            failed += of("not_sent") + of("outcome_unknown")
            bad = of("accepted") == "-" ? "-" : of("lost") + of("wrong") + of("failed")
            print of("mode"), of("rate"), of("ok"), of("refused"), failed, bad,
                ms("p50_ms"), ms("p95_ms"), ms("p99_ms"), ms("completion_p95_ms")
        }
    ' "$csv")
    case $1 in
        0) ;;
        "$EXCEEDED") verdict=LIM ;;
        *) verdict=BAD ;;
    esac
    row "$verdict" "$mode" "$rate" "$ok" "$refused" "$failed" "$bad" "$p50" "$p95" "$p99" "$callback"
}

# Prints a line of the table: 79 columns, or 60.
row() {
    local verdict
    printf -v verdict '%-3s' "$1"
    if has_colours; then
        case $1 in
            ok) verdict=$'\e[32m'$verdict$'\e[0m' ;;
            BAD | LIM) verdict=$'\e[1;31m'$verdict$'\e[0m' ;;
        esac
    fi
    if ((width >= 80)); then
        printf '%s %-5s %5s %7s %7s %6s %5s %7s %7s %7s %9s\n' "$verdict" "${@:2}"
    else
        printf '%s %-5s %5s %6s %7s %6s %5s %7s %8s\n' "$verdict" "${@:2:6}" "$9" "${11}"
    fi
}

# If the sweep was interrupted: the line of its last run would stay behind, and the runs that have
# ended are in the report.
stack_closing() {
    end_progress
    ((reported)) || report || true
}

EXCEEDED=3 # the exit status of storm-loadgen if a condition of --fail-if was met
width=$(terminal_width) total=0 bad=0 over=0 shown=0 reported=0
read_options "$@"
check_options
prepare
say "figures   ${csv#"$ROOT"/}, all of them"
sweep
printf '\n'
if ((bad > 0)); then
    echo "BAD: $bad of $total runs had wrong or missing answers or jobs"
elif ((over > 0)); then
    echo "LIM: every answer and every job was right, but $over of $total runs met a condition"
    echo 'of --fail-if'
else
    echo 'ok: every answer and every job of every run was right'
fi
cat <<'END'
Times are in ms, from when a request was due. callback: the
p95 of a job's end. bad: jobs lost, wrong or failed.
END
report
((bad == 0)) || exit 1
((over == 0)) || exit "$EXCEEDED"
