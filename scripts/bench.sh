#!/usr/bin/env bash
# Measures the figures of docs/BENCHMARKS.md on this machine. Most are also given as a ratio to
# another figure of the same run, which depends less on the machine.
#   SECONDS          the length of each measurement, 1 to 99 [10]
#   AGAINST=FOLDER   compare the binaries in FOLDER with the current ones
#   ONLY=retention   measure the deletion of old requests only, for some three minutes
#   ONLY=refusals    measure the refusals past MAX_BACKLOG only
#   ONLY=handlers    measure 10,000 jobs of a slow handler only
#   ONLY=watched     measure the cost of a viewer of the live page only
#   ONLY=postgres    measure PostgreSQL beside SQLite only, and a promotion
#   ONLY=churn       measure PostgreSQL while CHURN jobs come and go, and beside a transaction that
#                    stays open for HELD seconds. Takes an hour, so no other run includes it
# shellcheck disable=SC2030,SC2031 # each part runs in a subshell: its own stack, its own PID array
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"
# shellcheck source-path=SCRIPTDIR source=bench-postgres.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/bench-postgres.sh"

read_arguments '[SECONDS]' "$@"
SECONDS_EACH=${1:-10}
CONNECTIONS=64
FINISHED=3000000 # rows below those that `on_a_table` accepts
TURNS=5 # runs of each set of binaries with AGAINST
RETENTION_TURNS=3
REFUSAL_TURNS=3
WATCHED_TURNS=7
WATCHED_RATE=5000
LEFT_SECONDS=5  # RETENTION, the pause between two sweeps, and as much again for a busy machine
HOURS=24        # rounds of the compressed day
HOUR_SECONDS=4  # how long each one accepts jobs
RESULTS=$ROOT/target/bench
NOBODY=http://receiver.example/webhook # accepted, but never called: no worker runs
# It empties its Redis on purpose.
[[ -z ${REDIS_URL:-} ]] || die "REDIS_URL is set: unset it, because this script starts a Redis of its own"
[[ ${ONLY:-} =~ ^(retention|refusals|handlers|watched|postgres|churn|)$ ]] ||
    die "ONLY=$ONLY: expected retention, refusals, handlers, watched, postgres or churn"
[[ $SECONDS_EACH =~ ^[1-9][0-9]?$ ]] || wrong "SECONDS: expected 1 to 99, not $SECONDS_EACH"

# --- Measuring -----------------------------------------------------------------------------------

# Sends requests as fast as the connections allow. Every answer must be a 202. Prints the answers
# per second and their number.
#   flood URL CALLBACK_URL
flood() {
    local report
    report=$(send "$1/async" "$2")
    [[ $report != *Non-2xx* ]] || die "not every answer was a 202: $report"
    rate_of "$report"
}

# The same for the API of the stack, or for both: each gets half of the connections.
#   flood_all CALLBACK_URL
flood_all() {
    if [[ -z ${SECOND_API:-} ]]; then
        flood "$STORM_API" "$1"
        return
    fi
    local first second=$RESULTS/second CONNECTIONS=$((CONNECTIONS / 2))
    flood "http://$SECOND_API" "$1" >"$second" &
    first=$(flood "$STORM_API" "$1")
    wait $!
    echo "$first $(<"$second")" | awk '{ print $1 + $3, $2 + $4 }'
}

# The same for a URL that refuses all of them with a 503.
#   flood_refused URL
flood_refused() {
    local report
    report=$(send "$1" "$NOBODY")
    awk '
        /requests in/ { count = $1 }
        /Non-2xx/ { refused = $NF }
        END { exit !(count > 0 && count == refused) }' <<<"$report" ||
        die "not every answer was a refusal: $report"
    rate_of "$report"
}

# Prints the report of wrk.
#   send URL CALLBACK_URL
send() {
    local script
    script=$(mktemp "$STACK_DIR/post.XXXXXX")
    cat >"$script" <<LUA
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"records": 1, "report_name": "Q1_Finance", "callback_url": "$2"}'
LUA
    "$WRK" --threads 1 --connections "$CONNECTIONS" --duration "${SECONDS_EACH}s" \
        --script "$script" "$1"
}

#   rate_of REPORT
rate_of() {
    awk '
        /Requests\/sec/ { rate = $2 }
        /requests in/ { count = $1 }
        END { printf "%.0f %d\n", rate, count }' <<<"$1"
}

# Runs one load test; `figure NAME COLUMN` then prints its figures.
#   storm NAME OPTION...
storm() {
    local name=$1
    shift
    rm -f "$RESULTS/$name.csv"
    "$STORM_BIN/storm-loadgen" storm --api "$STORM_API" --csv "$RESULTS/$name.csv" "$@" \
        >"$RESULTS/$name.txt" || say "the load test $name had failures: see target/bench/$name.txt"
}

figure() {
    awk -F , -v want="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; if (!(want in column)) exit 1 }
        NR == 2 { print $column[want] }' "$RESULTS/$1.csv"
}

# Prints the number of completed jobs, from the /metrics of the worker, or of both. There is no such
# line before the first.
completed_jobs() {
    local worker
    for worker in "$WORKER_ADDR" ${SECOND_WORKER:-}; do ask "$worker" GET /metrics; done |
        awk '/^storm_worker_ended_jobs_total.outcome="completed"/ { jobs += $2 } END { print jobs + 0 }'
}

now() { date +%s.%N; }
calculate() { awk "BEGIN { printf \"${2:-%.2f}\n\", $1 }"; }
cpu_seconds() { awk -v tick="$(getconf CLK_TCK)" '{ print ($14 + $15) / tick }' "/proc/$1/stat"; }

# --- The measurements, each with its own stack ---------------------------------------------------

bare() (
    stack_open
    start_bare
    flood "$BARE" "$NOBODY"
    stop bare
)

# Starts the bare routes at $BARE.
start_bare() {
    local addr
    addr=127.0.0.1:$(free_port 20000)
    spawn "$STORM_BIN/examples/bare_route" "$addr"
    PID[bare]=$!
    until is_busy "${addr%:*}" "${addr#*:}"; do sleep 0.1; done
    BARE=http://$addr
}

# The API without a worker: the jobs stay PENDING.
#   accepted full|normal
accepted() (
    export DB_SYNCHRONOUS=$1
    stack_start api
    flood "$STORM_API" "$NOBODY"
)

# Refuses submissions past MAX_BACKLOG, and with a bare 503 of the same HTTP stack. The two
# alternate. Writes lines of KIND, refusals per second and the server's CPU microseconds for each.
refusals() (
    export MAX_BACKLOG=1
    stack_start api
    start_bare
    local turn
    # The one job that has room.
    [[ $(ask "$API_ADDR" POST /async '{"records": 1, "report_name": "Q1_Finance"}') == 'HTTP/1.1 202'* ]] ||
        die 'the first job was not accepted'
    : >"$RESULTS/refusals"
    for ((turn = 1; turn <= REFUSAL_TURNS; turn++)); do
        refusal bare "$BARE/refused"
        refusal api "$STORM_API/async"
    done >>"$RESULTS/refusals"
    stop bare
)

#   refusal NAME URL
refusal() {
    local before used rate count
    before=$(cpu_seconds "${PID[$1]}")
    read -r rate count < <(flood_refused "$2")
    used=$(calculate "($(cpu_seconds "${PID[$1]}") - $before) / $count * 1000000" %.1f)
    echo "$1 $rate $used"
}

# Accepts and delivers on an empty table, or on top of FINISHED finished requests; then looks
# requests up; then accepts without a worker. Prints accepted/s without a worker, delivered/s and
# look-ups/s.
#   on_a_table [filled]
on_a_table() (
    export RETENTION=0 # the sweep would give each of the inserted rows the time of its end
    stack_start api
    # Without a service: each part is one long transaction, for which their writes would wait.
    stop api
    [[ -z ${1:-} ]] || fill_with_finished
    # An fsync would wait for the gigabytes that are not on the disk yet.
    sync
    start_services api worker
    start_receiver
    local accepted delivered looked_up
    read -r _ delivered _ < <(deliver)
    looked_up=$(looked_up)
    stop worker
    read -r accepted _ < <(flood "$STORM_API" "$NOBODY")
    echo "$accepted $delivered $looked_up"
    stop receiver
)

# Prints how many requests are looked up in a second. They are spread over the whole table.
looked_up() {
    local script=$RESULTS/look.lua ids=$RESULTS/ids report
    "$SQLITE" -cmd '.timeout 10000' "${DB_URL#sqlite:}" \
        'SELECT id FROM requests WHERE abs(random()) % (1 + (SELECT count(*) FROM requests) / 20000) = 0' |
        shuf >"$ids"
    cat >"$script" <<LUA
local paths, last = {}, 0
for id in io.lines("$ids") do paths[#paths + 1] = "/requests/" .. id end
function request()
    last = last % #paths + 1
    return wrk.format("GET", paths[last])
end
LUA
    report=$("$WRK" --threads 1 --connections "$CONNECTIONS" --duration "${SECONDS_EACH}s" \
        --script "$script" "$STORM_API")
    [[ $report != *Non-2xx* ]] || die "not every look-up was answered: $report"
    rate_of "$report" | cut -d ' ' -f 1
}

# Inserts finished jobs as they are after an attempt each. Their ids are of 2024, a millisecond
# apart. In parts: a single transaction would need a write-ahead log as large as the table.
fill_with_finished() {
    local from part=100000
    for ((from = 0; from < FINISHED; from += part)); do
        cat <<SQL
INSERT INTO requests (id, mode, status, input_payload, result_payload, callback_url, created_at,
    completed_at, claim, owner, attempts, delivered)
WITH RECURSIVE numbers (n) AS
    (SELECT $from UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < $from + $part),
    ids AS (SELECT n, 1717200000000 + n AS ms FROM numbers)
SELECT printf('%08x-%04x-7000-8000-%012x', ms >> 16, ms & 65535, n), 'async', 'COMPLETED',
    '{"report_name":"Q1_Finance","records":10}',
    '{"report_id":"3eebd0ea-44d7-531b-b660-ca91c206c5e6","checksum":"a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73"}',
    'https://hooks.example.com/storm', '2024-06-01T00:00:00.000Z', '2024-06-01T00:00:01.000Z', 1,
    'a7f0f5f2-1f8c-4f0e-8a53-0c5f3a1b2c3d', 1,
    '{"number":1,"started_at":"2024-06-01T00:00:00.500Z","duration_ms":12,"status":200,"claim":1}'
FROM ids;
SQL
    done | "$SQLITE" -bail -cmd '.timeout 10000' "${DB_URL#sqlite:}"
}

# Accepts and delivers jobs at full speed. Prints accepted/s, delivered/s from the first accept to
# the last settled job, the jobs, the percentage of CPU time that was idle while jobs were accepted,
# and the CPU microseconds for each job: the API's, the worker's, Redis's and PostgreSQL's, if it is
# the store.
delivered() (
    stack_start api worker
    start_receiver
    local figures jobs
    figures=$(deliver)
    read -r _ _ jobs _ <<<"$figures"
    figures+=" $(cpu_of api "$jobs") $(cpu_of worker "$jobs") $(cpu_of redis "$jobs")"
    [[ -z ${POSTGRES_DIR:-} ]] || figures+=" $(cpu_of_postgres "$jobs")"
    echo "$figures"
    stop receiver
)

# Prints the CPU microseconds that a process has used, for each of JOBS.
#   cpu_of NAME JOBS
cpu_of() { calculate "$(cpu_seconds "${PID[$1]}") / $2 * 1000000" %.1f; }

# Runs a storm without and with a viewer of the live page. The two alternate. Writes lines of KIND,
# the CPU seconds of the API and of the worker, and the 99th percentile of the acknowledgements.
# Below the peak, so that the work of each run is the same, and CPU time is compared: throughput at
# the peak differs more from run to run than a viewer costs.
with_and_without_viewer() {
    local turn kind
    : >"$RESULTS/watched"
    for ((turn = 1; turn <= WATCHED_TURNS; turn++)); do
        for kind in alone watched; do
            # In a subshell: a stack ends with its shell.
            (storm_with_viewer "$kind" >>"$RESULTS/watched")
        done
    done
}

#   storm_with_viewer alone|watched
storm_with_viewer() {
    local api worker
    stack_start api worker
    [[ $1 == alone ]] || watch
    api=$(cpu_seconds "${PID[api]}") worker=$(cpu_seconds "${PID[worker]}")
    storm watched --mode async --rate "$WATCHED_RATE" --duration "${SECONDS_EACH}s" --records 1 \
        --listen "localhost:$(free_port 16000)"
    echo "$1 $(calculate "$(cpu_seconds "${PID[api]}") - $api")" \
        "$(calculate "$(cpu_seconds "${PID[worker]}") - $worker")" "$(figure watched p99_ms)"
    [[ $1 == alone ]] || stop viewer
}

# Reads what the live page shows, as a browser does, into $RESULTS/overview.
watch() {
    spawn curl --silent --no-buffer "$STORM_API/overview" >"$RESULTS/overview"
    PID[viewer]=$!
    until grep -q '^event: ' "$RESULTS/overview"; do
        services_alive || die 'the live page sends nothing'
        sleep 0.05
    done
}

#   watched_line WHAT COLUMN UNIT TARGET
watched_line() {
    local alone watched
    alone=$(median_of_kind "$RESULTS/watched" "$WATCHED_TURNS" alone "$2")
    watched=$(median_of_kind "$RESULTS/watched" "$WATCHED_TURNS" watched "$2")
    line "$1, jobs at $WATCHED_RATE/s" "$alone$3"
    line 'the same, beside a viewer of the live page' "$watched$3" \
        "$(calculate "$watched / $alone") of that" "$4"
}

watched_table() {
    watched_line "the API's CPU time" 2 ' s' 'at most 1.01'
    watched_line "the worker's CPU time" 3 ' s' 'at most 1.01'
    watched_line 'ack: p99' 4 ' ms' ''
    line 'samples that the viewer got, a run' "$(grep -c '^event: sample' "$RESULTS/overview")"
}

# Starts a receiver at http://127.0.0.1:$PORT/webhook.
start_receiver() {
    PORT=$(free_port 16000)
    spawn "$STORM_BIN/storm-loadgen" receive --listen "127.0.0.1:$PORT" >/dev/null 2>&1
    PID[receiver]=$!
    until is_busy 127.0.0.1 "$PORT"; do sleep 0.1; done
}

# Prints accepted/s, delivered/s and the number of jobs, of those that it submits, and the
# percentage of CPU time that was idle meanwhile.
deliver() {
    local begun before deadline rate jobs idle total idle_then total_then
    before=$(completed_jobs)
    begun=$(now)
    read -r idle total < <(cpu_times)
    read -r rate jobs < <(flood_all "http://127.0.0.1:$PORT/webhook")
    read -r idle_then total_then < <(cpu_times)
    deadline=$((SECONDS + 120))
    until (($(completed_jobs) >= before + jobs)); do
        services_alive || die 'a service died'
        ((SECONDS < deadline)) ||
            die "only $(($(completed_jobs) - before)) of $jobs jobs were delivered in 120 s"
        sleep 0.05
    done
    calculate "$jobs / ($(now) - $begun)" \
        "$rate %.0f $jobs $((100 * (idle_then - idle) / (total_then - total)))"
}

# Prints the machine's idle CPU time, waiting for the disk included, and all of it, in ticks.
cpu_times() { awk '$1 == "cpu" { for (i = 2; i <= 9; i++) all += $i; print $5 + $6, all }' /proc/stat; }

# Deletes finished requests after 2 seconds, the shortest time that the settings allow here.
delete_soon() { export HTTP_TIMEOUT=2s IDEMPOTENCY_WINDOW=2s RETENTION=2s; }

# The same as `delivered`, with the deletion of what ended 2 seconds ago. Prints also how many
# requests were deleted by then, and how many are left. Fails if those are more than LEFT_SECONDS
# take: then the figures are of a deletion that did not keep pace.
delivered_and_deleted() (
    delete_soon
    stack_start api worker
    start_receiver
    local accepted delivered jobs left
    read -r accepted delivered jobs _ < <(deliver)
    left=$(rows_left)
    ((left <= delivered * LEFT_SECONDS)) ||
        die "of $jobs jobs, $left were not deleted by the end, which is more than $LEFT_SECONDS s of $delivered/s"
    echo "$accepted $delivered $jobs $((jobs - left)) $left"
    stop receiver
)

rows_left() { "$SQLITE" -cmd '.timeout 10000' "${DB_URL#sqlite:}" 'SELECT count(*) FROM requests'; }

# Delivers without and with the deletion of old requests. The two alternate. Writes lines of KIND
# ACCEPTED DELIVERED JOBS, and of those that were DELETED, and LEFT.
with_and_without_deletion() {
    local turn figures
    : >"$RESULTS/retention"
    for ((turn = 1; turn <= RETENTION_TURNS; turn++)); do
        figures=$(RETENTION=0 delivered)
        echo "kept $figures" >>"$RESULTS/retention"
        figures=$(delivered_and_deleted)
        echo "deleted $figures" >>"$RESULTS/retention"
    done
}

#   retention_median KIND COLUMN
retention_median() { median_of_kind "$RESULTS/retention" "$RETENTION_TURNS" "$@"; }

# Prints the median of a column of the lines that begin with KIND, of which there are TURNS.
#   median_of_kind FILE TURNS KIND COLUMN
median_of_kind() {
    awk -v kind="$3" -v column="$4" '$1 == kind { print $column }' "$1" |
        sort -g | sed -n "$((($2 + 1) / 2))p"
}

# A day in HOURS rounds: each accepts jobs at full speed and ends when all of them are delivered.
# What ended some rounds ago is deleted meanwhile. Writes lines of HOUR DELIVERED JOBS FILE API
# WORKER, the sizes in KiB, and then the number of requests that are left.
day() (
    delete_soon
    SECONDS_EACH=$HOUR_SECONDS
    stack_start api worker
    start_receiver
    local hour delivered jobs file=${DB_URL#sqlite:}
    for ((hour = 1; hour <= HOURS; hour++)); do
        read -r _ delivered jobs _ < <(deliver)
        echo "$hour $delivered $jobs $(($(stat -c %s "$file") / 1024))" \
            "$(resident "${PID[api]}") $(resident "${PID[worker]}")"
    done >"$RESULTS/day"
    # Without new jobs, all of them are deleted.
    local left deadline=$((SECONDS + 60))
    until left=$(rows_left) && ((left == 0 || SECONDS >= deadline)); do sleep 1; done
    echo "left $left" >>"$RESULTS/day"
    stop receiver
)

# Prints the resident memory of a process in KiB.
resident() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }

# Prints the median of a column of the day, from one hour to another.
#   of_day COLUMN FROM TO
of_day() {
    awk -v column="$1" -v from="$2" -v to="$3" '$1 >= from && $1 <= to { print $column }' \
        "$RESULTS/day" | sort -g | sed -n "$((($3 - $2) / 2 + 1))p"
}

# Prints a size at the beginning, in the middle and at the end of the day, in MB. Once the first
# requests were deleted, it should not grow.
#   sizes_of_day COLUMN
sizes_of_day() {
    local hour sizes=()
    for hour in 3 $((HOURS / 2)) "$HOURS"; do
        sizes+=("$(($(of_day "$1" "$hour" "$hour") / 1024))")
    done
    echo "${sizes[*]} MB"
}

retention_table() {
    local first last kept deleted
    first=$(of_day 2 2 6) last=$(of_day 2 $((HOURS - 4)) "$HOURS")
    kept=$(retention_median kept 3) deleted=$(retention_median deleted 3)
    line 'accepted while all is delivered, nothing is deleted' "$(retention_median kept 2)/s"
    line 'the same, all is deleted after 2 s' "$(retention_median deleted 2)/s" \
        "$(calculate "$(retention_median deleted 2) / $(retention_median kept 2)") of that" '0.95'
    line 'delivered, all is deleted after 2 s' "$deleted/s" \
        "$(calculate "$deleted / $kept") of nothing deleted" '0.95'
    line 'deleted by the end of the last delivery, and left' \
        "$(retention_median deleted 5), $(retention_median deleted 6)"
    line "a day in $HOURS rounds: $(awk '{ jobs += $3 } END { print jobs }' "$RESULTS/day") jobs, delivered at its end" \
        "$last/s" "$(calculate "$last / $first") of the beginning" '0.9'
    line 'the database file: in round 3, in the middle, at the end' "$(sizes_of_day 4)" '' 'flat'
    line "the API's memory" "$(sizes_of_day 5)" '' 'flat'
    line "the worker's memory" "$(sizes_of_day 6)" '' 'flat'
    line 'requests left a minute after it' "$(awk '$1 == "left" { print $2 }' "$RESULTS/day")" '' '0'
}

#   handlers_table SECONDS P50 P99 MOST CPU MEMORY RIGHT
handlers_table() {
    line "10,000 jobs of $1 s of a handler at once: lateness p50" "$2 ms" "$7 right"
    line "10,000 jobs of $1 s of a handler at once: lateness p99" "$3 ms" "$4 in flight"
    line "the worker's CPU time and peak memory for these" "$5 s, $6 MB"
}

refusals_table() {
    line 'a bare 503: reads the same body, gives the same answer' "$(refusals_median bare 2)/s"
    line 'refused by admission control, past MAX_BACKLOG' "$(refusals_median api 2)/s"
    local bare refused
    bare=$(refusals_median bare 3) refused=$(refusals_median api 3)
    line 'CPU time of a bare 503' "$bare µs"
    line 'CPU time of a refusal past MAX_BACKLOG' "$refused µs" \
        "$(calculate "$refused / $bare") of a bare 503" 'at most 1.1'
}

#   refusals_median KIND COLUMN
refusals_median() { median_of_kind "$RESULTS/refusals" "$REFUSAL_TURNS" "$@"; }

# Measures acknowledgements while the worker runs and delivers the same jobs.
#   ack_at RATE
ack_at() (
    stack_start api worker
    storm ack --mode async --rate "$1" --duration "${SECONDS_EACH}s" --records 1 \
        --listen "localhost:$(free_port 16000)"
)

# Measures /async beside an idle /sync and beside a saturated one. The two alternate, so that
# changes in the machine's speed affect both.
isolation() (
    stack_start api worker
    local turn port
    port=$(free_port 16000)
    for turn in 1 2 3; do
        storm "idle$turn" --mode async --rate 500 --duration "${SECONDS_EACH}s" --records 1 \
            --listen "localhost:$port"
        storm "sync$turn" --mode sync --rate 200 --duration "$((SECONDS_EACH + 2))s" --records 49 \
            --timeout 10s &
        sleep 1 # enough to saturate /sync: four threads, each with two requests a second
        storm "busy$turn" --mode async --rate 500 --duration "${SECONDS_EACH}s" --records 1 \
            --listen "localhost:$port"
        wait $!
    done
)

# Prints the median of the three turns.
#   median_figure NAME COLUMN
median_figure() {
    local turn
    for turn in 1 2 3; do figure "$1$turn" "$2"; done | sort -g | sed -n 2p
}

# Measures nine receivers, each with 100 jobs/s: alone, and beside a tenth one that never answers
# and whose name server never answers. The two alternate.
bad_neighbour() (
    local turn lab=$RESULTS/lab
    mkdir -p "$lab"
    ln -sf "$STORM_BIN/storm-api" "$STORM_BIN/storm-loadgen" "$lab/"
    ln -sf "$STORM_BIN/examples/hanging_world" "$lab/storm-worker"
    export HANGING_ADDR
    HANGING_ADDR=127.0.0.1:$(free_port 15000)
    # Short enough that attempts time out and are retried while the nine are measured.
    export CALLBACK_TIMEOUT=2s STORM_BIN=$lab
    stack_start api worker
    for turn in 1 2 3; do
        nine_receivers "alone$turn"
        hanging_jobs "$((SECONDS_EACH + 2))" &
        sleep 3 # until the first attempts have timed out
        nine_receivers "beside$turn"
        wait $!
    done
)

# Runs nine load tests at once, NAME-1 to NAME-9.
#   nine_receivers NAME
nine_receivers() {
    local number port pids=()
    for number in {1..9}; do
        port=$(free_port $((16000 + number * 100)))
        storm "$1-$number" --mode async --rate 100 --duration "${SECONDS_EACH}s" --records 1 \
            --listen "127.0.0.1:$port" &
        pids+=($!)
    done
    wait "${pids[@]}"
}

# Submits jobs for a receiver that hangs and for a name whose look-up hangs, 50 a second each.
#   hanging_jobs SECONDS
hanging_jobs() {
    local batch='' url body deadline=$((SECONDS + $1)) _
    for _ in {1..5}; do
        for url in "http://$HANGING_ADDR/webhook" "http://hangs.test:${HANGING_ADDR#*:}/webhook"; do
            body='{"records": 1, "report_name": "Q1_Finance", "callback_url": "'$url'"}'
            batch+="POST /async HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            batch+="content-length: ${#body}\r\n\r\n$body"
        done
    done
    exec 4<>"/dev/tcp/$(host_of "$API_ADDR")/$(port_of "$API_ADDR")"
    cat <&4 >"$RESULTS/hanging.txt" &
    while ((SECONDS < deadline)); do
        printf '%b' "$batch" >&4
        sleep 0.1
    done
    kill $! && exec 4>&-
    grep -q '^HTTP/1.1 202' "$RESULTS/hanging.txt" || die 'no job for a receiver that hangs was accepted'
}

# Prints the worst figure of the nine receivers: the median of the three turns.
#   worst_figure NAME COLUMN
worst_figure() {
    local turn number
    for turn in 1 2 3; do
        for number in {1..9}; do figure "$1$turn-$number" "$2"; done | sort -g | tail -n 1
    done | sort -g | sed -n 2p
}

# Runs 5,000 five-second reports at once. Prints the worker's CPU seconds and its peak memory in MB.
burst() (
    stack_start api worker
    local before used
    before=$(cpu_seconds "${PID[worker]}")
    storm burst --mode async --rate 5000 --duration 1s --records 500 \
        --listen "localhost:$(free_port 16000)"
    used=$(calculate "$(cpu_seconds "${PID[worker]}") - $before" %.1f)
    awk -v cpu="$used" '/VmHWM/ { printf "%s %.0f\n", cpu, $2 / 1024 }' "/proc/${PID[worker]}/status"
)

# Runs 10,000 jobs of a handler whose endpoint takes some seconds, in one worker that may have all
# of them in flight. They are submitted in a second. Prints these seconds, the lateness at p50 and
# p99 in ms, the most that were in flight, the worker's CPU seconds, its peak memory in MB, and the
# correct callbacks.
#   handler_jobs SECONDS
handler_jobs() (
    export WORKER_CONCURRENCY=20000 HANDLERS__SLOW__CONCURRENCY=10000
    ulimit -Sn "$(ulimit -Hn)" # for the endpoint: the others raise theirs
    # With less, the worker lowers its bounds, and says so in its log.
    [[ $(ulimit -n) == unlimited ]] || (($(ulimit -n) >= 20000)) ||
        say "fewer than 10,000 at a time: raise the limit of open files to 20000"
    local endpoint payload=$RESULTS/payload.json before used most
    endpoint=127.0.0.1:$(free_port 15000)
    export HANDLERS__SLOW__URL=http://$endpoint/
    echo '{"page": 1}' >"$payload"
    stack_start api worker
    spawn "$STORM_BIN/examples/slow_endpoint" "$endpoint" "$1"
    PID[endpoint]=$!
    until is_busy 127.0.0.1 "${endpoint#*:}"; do sleep 0.1; done
    before=$(cpu_seconds "${PID[worker]}")
    storm handlers --handler slow --payload "$payload" --rate 10000 --duration 1s \
        --listen "localhost:$(free_port 16000)"
    used=$(calculate "$(cpu_seconds "${PID[worker]}") - $before" %.1f)
    most=$(ask "$endpoint" GET /most | tail -n 1)
    echo "$1 $(calculate "$(figure handlers completion_p50_ms) - 1000 * $1" %.0f)" \
        "$(calculate "$(figure handlers completion_p99_ms) - 1000 * $1" %.0f)" "$most" "$used" \
        "$(awk '/VmHWM/ { printf "%.0f", $2 / 1024 }' "/proc/${PID[worker]}/status")" \
        "$(figure handlers right)"
    stop endpoint
)

# Runs FLUSHALL while a worker is at its concurrency limit, with a backlog of some ten thousand
# jobs. Prints the pending jobs, the jobs/s before it, the seconds until the first second with 90 %
# of that rate, and the number of correct callbacks.
flushed() (
    export WORKER_CONCURRENCY=200
    stack_start api worker
    local samples=$RESULTS/flushed jobs=20000 flush
    : >"$samples"
    storm flushed --mode async --rate "$((jobs / 2))" --duration 2s --records 10 \
        --listen "localhost:$(free_port 16000)" &
    until (($(completed_jobs) > 2000)); do sleep 0.05; done
    sample_for 1
    redis-cli -u "$REDIS_URL" FLUSHALL >/dev/null
    flush=$(now)
    sample_for 5
    wait $!
    awk -v flush="$flush" -v jobs="$jobs" -v right="$(figure flushed right)" '
        { at[NR] = $1; done[NR] = $2 }
        $1 < flush { before = done[NR] - done[1]; during = $1 - at[1]; left = jobs - $2 }
        END {
            speed = before / during
            for (from = 1; from < NR; from++) {
                if (at[from] < flush) continue
                for (to = from; to < NR && at[to] - at[from] < 1; to++);
                if ((done[to] - done[from]) / (at[to] - at[from]) >= 0.9 * speed) break
            }
            printf "%d %d %.1f %d\n", left, speed, at[from] - flush, right
        }' "$samples"
)

# Appends the time and the number of completed jobs to $samples, ten times a second.
#   sample_for SECONDS
sample_for() {
    local until=$((SECONDS + $1))
    while ((SECONDS <= until)); do
        echo "$(now) $(completed_jobs)" >>"$samples"
        sleep 0.1
    done
}

# --- The table -----------------------------------------------------------------------------------

#   line WHAT FIGURE [COMPARED [TARGET]]
line() { printf '| %-60s | %16s | %-24s | %-12s |\n' "$1" "$2" "${3:-}" "${4:-}"; }

heading() {
    printf '\n%s, %s cores, %s s a measurement, load and receiver on the same cores\n\n' \
        "$(uname -sm)" "$(nproc)" "$SECONDS_EACH"
    line measured figure compared target
    line --- ---: --- ---
}

# Compares two sets of binaries. They alternate, so that changes in the machine's speed affect both.
compare() {
    local turn bin figures both now=$STORM_BIN half=''
    # The older binaries may not support signing, so by default neither set signs.
    export CALLBACK_SIGNING_SECRETS=${CALLBACK_SIGNING_SECRETS:-}
    : >"$RESULTS/compared"
    for ((turn = 1; turn <= TURNS; turn++)); do
        for bin in "$AGAINST" "$now"; do
            figures="$(STORM_BIN=$bin accepted full) $(STORM_BIN=$bin delivered)"
            read -r _ _ both _ <<<"$figures"
            half=${half:-$((both / 2))} # of the binaries before
            STORM_BIN=$bin ack_at "$half"
            figures+=" $(figure ack p99_ms)"
            echo "$bin $figures" >>"$RESULTS/compared"
            say "turn $turn  $bin  $figures"
        done
    done
    printf '\n%s, %s cores, %s s a measurement, medians of %s turns\n\n' \
        "$(uname -sm)" "$(nproc)" "$SECONDS_EACH" "$TURNS"
    printf '| %-56s | %9s | %9s | %-13s |\n' measured before now 'now of before'
    printf '| %-56s | %9s | %9s | %-13s |\n' --- ---: ---: ---
    compared 'accepted, DB_SYNCHRONOUS=full' 2
    compared 'accepted while the worker delivers at full speed' 4
    compared 'delivered, from accept to settled' 5
    compared 'idle CPU time meanwhile' 7 ' %'
    compared 'CPU time of the API, a delivered job' 8 ' µs'
    compared 'CPU time of the worker, a delivered job' 9 ' µs'
    compared 'CPU time of Redis, a delivered job' 10 ' µs'
    compared "ack at $half/s, half of the peak before: p99" 11 ' ms'
}

#   compared WHAT COLUMN [UNIT]
compared() {
    local before now unit=${3:-/s}
    before=$(median_of "$AGAINST" "$2") now=$(median_of "$STORM_BIN" "$2")
    printf '| %-56s | %9s | %9s | %-13s |\n' "$1" "$before$unit" "$now$unit" \
        "$(calculate "$before == 0 ? 0 : $now / $before")"
}

#   median_of BIN COLUMN
median_of() { median_of_kind "$RESULTS/compared" "$TURNS" "$@"; }

main() {
    [[ -n ${AGAINST:-} || ! ${ONLY:-postgres} =~ ^(postgres|churn)$ ]] || need_postgres "this benchmark"
    need_binaries api worker loadgen
    local project
    for project in api worker; do
        [[ -x $STORM_BIN/examples/bare_route && -x $STORM_BIN/examples/slow_endpoint ]] ||
            (cd -- "$ROOT" && CARGO_TARGET_DIR=target cargo build --release --locked --examples \
                --manifest-path "$project/Cargo.toml")
    done
    WRK=$("$ROOT/scripts/find-tool.sh" wrk)
    SQLITE=$("$ROOT/scripts/find-tool.sh" sqlite3)
    mkdir -p "$RESULTS"
    export CALLBACK_ALLOW=127.0.0.1/32,::1/128
    if [[ -n ${AGAINST:-} ]]; then
        [[ -x $AGAINST/storm-api && -x $AGAINST/storm-worker ]] ||
            die "AGAINST=$AGAINST: the folder has no storm-api and storm-worker"
        compare
        return
    fi

    case ${ONLY:-} in
        refusals)
            refusals
            heading
            refusals_table
            return
            ;;
        handlers)
            local short long
            read -ra short < <(handler_jobs 1)
            read -ra long < <(handler_jobs 5)
            heading
            handlers_table "${short[@]}"
            handlers_table "${long[@]}"
            return
            ;;
        watched)
            with_and_without_viewer
            heading
            watched_table
            return
            ;;
        postgres)
            local promoted
            stores
            read -ra promoted < <(promotion)
            heading
            stores_table
            promotion_table "${promoted[@]}"
            return
            ;;
        churn)
            churn
            heading
            churn_table
            return
            ;;
    esac
    with_and_without_deletion
    day
    if [[ ${ONLY:-} == retention ]]; then
        heading
        retention_table
        return
    fi

    local bare full normal both delivered half idle busy alone beside cpu memory pending speed pause right short long
    local accepted_below delivered_below looked_up_below promoted
    local accepted_on_top delivered_on_top looked_up_on_top idle_share api_cpu worker_cpu redis_cpu
    read -r bare _ < <(bare)
    read -r full _ < <(accepted full)
    read -r normal _ < <(accepted normal)
    read -r accepted_below delivered_below looked_up_below < <(on_a_table)
    read -r accepted_on_top delivered_on_top looked_up_on_top < <(on_a_table filled)
    refusals
    read -r both delivered _ idle_share api_cpu worker_cpu redis_cpu < <(delivered)
    half=$((both / 2))
    ack_at "$half"
    isolation
    idle=$(median_figure idle p99_ms) busy=$(median_figure busy p99_ms)
    bad_neighbour
    alone=$(worst_figure alone completion_p99_ms) beside=$(worst_figure beside completion_p99_ms)
    read -r cpu memory <<<"$(burst)"
    read -r pending speed pause right <<<"$(flushed)"
    read -ra short < <(handler_jobs 1)
    read -ra long < <(handler_jobs 5)
    stores
    read -ra promoted < <(promotion)

    heading
    line 'the bare route: validation and 202, no storage' "$bare/s"
    line 'accepted, DB_SYNCHRONOUS=full' "$full/s" "$(calculate "$full / $bare") of bare" '0.25'
    line 'accepted, DB_SYNCHRONOUS=normal' "$normal/s" "$(calculate "$normal / $bare") of bare"
    line "accepted, on top of $FINISHED finished requests" "$accepted_on_top/s" \
        "$(calculate "$accepted_on_top / $accepted_below") of an empty table" '0.9'
    line "delivered, on top of these" "$delivered_on_top/s" \
        "$(calculate "$delivered_on_top / $delivered_below") of an empty table" '0.9'
    line "requests looked up, on top of these" "$looked_up_on_top/s" \
        "$(calculate "$looked_up_on_top / $looked_up_below") of an empty table" '0.9'
    refusals_table
    line 'accepted while the worker delivers at full speed (full)' "$both/s" "$(calculate "$both / $bare") of bare"
    line 'delivered, from accept to settled (full)' "$delivered/s" "$(calculate "$delivered / $bare") of bare" '0.15'
    line 'idle CPU time while jobs are accepted and delivered' "$idle_share %" '' 'under 10 %'
    line 'CPU time a delivered job: API, worker, Redis' "$api_cpu $worker_cpu $redis_cpu µs"
    line "ack at $half/s, half of that peak: p50" "$(figure ack p50_ms) ms"
    line "ack at $half/s, half of that peak: p99" "$(figure ack p99_ms) ms"
    line "ack at $half/s, half of that peak: p99.9" "$(figure ack p99_9_ms) ms"
    line '/async at 500/s, /sync idle: p99' "$idle ms"
    line '/async at 500/s, /sync saturated: p99' "$busy ms" "$(calculate "$busy / $idle") of idle" 'at most 1.5'
    line 'nine receivers, 900 jobs/s: the worst p99 of a callback' "$alone ms"
    line 'the same, beside a tenth that hangs and whose DNS hangs' "$beside ms" \
        "$(calculate "$beside / $alone") of alone" 'at most 2'
    line '5,000 five-second reports at once: lateness p50' "$(figure burst lateness_p50_ms) ms"
    line '5,000 five-second reports at once: lateness p99' "$(figure burst lateness_p99_ms) ms" '' 'under 500 ms'
    line "the worker's CPU time and peak memory for these" "$cpu s, $memory MB"
    handlers_table "${short[@]}"
    handlers_table "${long[@]}"
    line "FLUSHALL under $pending pending jobs: full speed ($speed/s) after" "$pause s" \
        "$right of 20000 right" 'within 3 s'
    stores_table
    promotion_table "${promoted[@]}"
    retention_table
}

main
