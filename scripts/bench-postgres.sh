#!/usr/bin/env bash
# Measures PostgreSQL beside SQLite. Sourced by bench.sh, never run.
# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # parts run in subshells; variables are bench.sh's
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

STORE_TURNS=3
CHURN=${CHURN:-5000000} # jobs
HELD=${HELD:-600}       # seconds

# Accepts and delivers on either engine, and on PostgreSQL with two APIs and two workers. They
# alternate. Writes lines of KIND ACCEPTED, which is without a worker, and what `delivered` prints.
stores() {
    local turn figures
    : >"$RESULTS/stores"
    for ((turn = 1; turn <= STORE_TURNS; turn++)); do
        figures="$(accepted full) $(delivered)"
        echo "sqlite $figures"
        figures="$(STORE=postgres accepted full) $(STORE=postgres delivered)"
        echo "postgres $figures"
        figures="- - $(STORE=postgres delivered_by_two)"
        echo "two $figures"
    done >>"$RESULTS/stores"
}

#   store_median KIND COLUMN
store_median() { median_of_kind "$RESULTS/stores" "$STORE_TURNS" "$@"; }

stores_table() {
    local accepted accepted_of delivered delivered_of two
    accepted=$(store_median postgres 2) accepted_of=$(store_median sqlite 2)
    delivered=$(store_median postgres 5) delivered_of=$(store_median sqlite 5)
    two=$(store_median two 5)
    line 'accepted on PostgreSQL, synchronous_commit=on' "$accepted/s" \
        "$(calculate "$accepted / $accepted_of") of SQLite's $accepted_of/s" '0.5'
    line 'delivered on PostgreSQL' "$delivered/s" \
        "$(calculate "$delivered / $delivered_of") of SQLite's $delivered_of/s" '0.4'
    line 'delivered by two APIs and two workers' "$two/s" \
        "$(calculate "$two / $delivered") of one of each" '1'
    line 'CPU time a delivered job: API, worker, Redis, PostgreSQL' \
        "$(store_median postgres 8) $(store_median postgres 9) $(store_median postgres 10) $(store_median postgres 11) µs"
    line 'the same on SQLite: API, worker, Redis' \
        "$(store_median sqlite 8) $(store_median sqlite 9) $(store_median sqlite 10) µs"
}

# The same as `delivered`, of two APIs and two workers.
delivered_by_two() (
    stack_start api worker
    SECOND_API=127.0.0.1:$(free_port 21000) SECOND_WORKER=127.0.0.1:$(free_port 25000)
    start_second api "$SECOND_API"
    start_second worker "$SECOND_WORKER"
    start_receiver
    deliver
    stop receiver api2 worker2
)

#   start_second api|worker ADDRESS
start_second() {
    spawn env "${1^^}_ADDR=$2" "$STORM_BIN/storm-$1" >>"$STACK_DIR/${1}2.log" 2>&1
    PID[${1}2]=$!
    await "${1}2" is_healthy "$2"
}

# The primary is killed while the API accepts as much as it can, and its synchronous standby is
# promoted. Prints the seconds from the end of the promotion to the next 202, those from the kill to
# it, the number of accepted jobs, and how many of them the new primary lacks.
promotion() (
    # shellcheck disable=SC2317 # stack_start calls it
    start_store() { start_pair; }
    STORE=postgres stack_start api
    local report=$RESULTS/promotion killed promoted next answer jobs
    export PGCONNECT_TIMEOUT=2
    send "$STORM_API/async" "$NOBODY" >"$report" &
    until jobs=$(sql 'SELECT count(*) FROM requests') && ((jobs > 10000)); do sleep 0.1; done
    killed=$(now)
    # With its processes, as a host that loses power.
    kill -KILL -- "-$(head -n 1 "$POSTGRES_DIR/data/postmaster.pid")"
    as_server_user "$POSTGRES_BIN/pg_ctl" --pgdata "$POSTGRES_DIR/standby" --wait --silent promote
    promoted=$(now)
    until answer=$(ask "$API_ADDR" POST /async '{"records": 1, "report_name": "Q1_Finance"}') &&
        [[ $answer == 'HTTP/1.1 202'* ]]; do sleep 0.01; done
    next=$(now)
    wait $!
    jobs=$(awk '/requests in/ { sent = $1 } /Non-2xx/ { refused = $NF } END { print sent - refused + 1 }' "$report")
    echo "$(calculate "$next - $promoted") $(calculate "$next - $killed")" \
        "$jobs $(sql "SELECT greatest(0, $jobs - count(*)) FROM requests")"
    stop api standby
)

# Starts a primary and its synchronous standby, and sets DB_URL to both.
start_pair() {
    local port primary
    start_postgres with
    primary=$TEST_POSTGRES
    "$POSTGRES_BIN/psql" --quiet "$primary/postgres" --command 'CREATE DATABASE storm'
    port=$(free_port 23000)
    cd /
    as_server_user "$POSTGRES_BIN/pg_basebackup" --dbname "$primary" --pgdata "$POSTGRES_DIR/standby" \
        --write-recovery-conf --checkpoint fast
    spawn as_server_user "$POSTGRES_BIN/postgres" -D "$POSTGRES_DIR/standby" -p "$port" \
        -k "$POSTGRES_DIR" -c listen_addresses=127.0.0.1 -c max_connections=300 \
        -c cluster_name=standby >"$STACK_DIR/standby.log" 2>&1
    cd -- "$OLDPWD"
    PID[standby]=$!
    "$POSTGRES_BIN/psql" --quiet "$primary/storm" \
        --command "ALTER SYSTEM SET synchronous_standby_names = 'standby'" \
        --command 'SELECT pg_reload_conf()' >/dev/null
    export DB_URL=$primary,127.0.0.1:$port/storm
    until [[ $(sql 'SELECT sync_state FROM pg_stat_replication') == sync ]]; do
        services_alive
        sleep 0.1
    done
}

promotion_table() {
    line 'after a promotion, the first job is accepted after' "$1 s" "$2 s after the kill" '5 s'
    line 'accepted jobs that the promoted standby lacks' "$4" "of $3" '0'
}

# Prints the CPU microseconds that the PostgreSQL server of the stack has used, for each of JOBS.
#   cpu_of_postgres JOBS
cpu_of_postgres() {
    local server
    server=$(head -n 1 "$POSTGRES_DIR/data/postmaster.pid")
    cat /proc/[0-9]*/stat 2>/dev/null |
        awk -v server="$server" -v tick="$(getconf CLK_TCK)" -v jobs="$1" '
            { sub(/^[0-9]+ \(.*\) /, $1 " ") } # a name may have spaces
            $1 == server { used += $12 + $13 + $14 + $15 } # with the processes that have ended
            $3 == server { used += $12 + $13 }
            END { printf "%.1f\n", used / tick / jobs * 1000000 }'
}

# Runs SQL in the stack's database, on the host that accepts writes, and prints its rows.
sql() {
    "$POSTGRES_BIN/psql" --quiet --no-psqlrc --tuples-only --no-align \
        "$DB_URL?target_session_attrs=read-write" --command "$1"
}

# Jobs come and go: each round accepts for HOUR_SECONDS and ends when all are delivered; what ended
# 2 seconds ago is deleted meanwhile. Then the same beside a transaction that stays open, and after
# it. Writes lines of PART SECONDS DELIVERED JOBS DEAD SIZE: the dead rows of `requests`, and its
# size with its indexes in megabytes.
churn() (
    export STORE=postgres
    delete_soon
    SECONDS_EACH=$HOUR_SECONDS
    stack_start api worker
    start_receiver
    : >"$RESULTS/churn"
    local jobs=0 begun reader
    while ((jobs < CHURN)); do
        churn_round free
        jobs=$((jobs + JOBS))
    done
    spawn "$POSTGRES_BIN/psql" --quiet "$DB_URL" --output /dev/null \
        --command 'BEGIN ISOLATION LEVEL REPEATABLE READ' --command 'SELECT count(*) FROM store' \
        --command "SELECT pg_sleep($HELD)" --command COMMIT
    reader=$! # not in PID: its end is no failure
    while is_alive "$reader"; do churn_round held; done
    # Until the dead rows of that time are reclaimed, or for five minutes.
    begun=$SECONDS
    until churn_round after && ((DEAD < LEAST_DEAD * 2 || SECONDS - begun > 300)); do :; done
    echo "reclaimed $((SECONDS - begun))" >>"$RESULTS/churn"
    stop receiver
)

# Sets JOBS, DEAD, and LEAST_DEAD, the largest number while nothing held them.
#   churn_round PART
churn_round() {
    local delivered size
    read -r _ delivered JOBS _ < <(deliver)
    read -r DEAD size < <(sql "SELECT n_dead_tup || ' ' || pg_total_relation_size('requests') / 1048576
        FROM pg_stat_user_tables WHERE relname = 'requests'")
    [[ $1 != free ]] || ((DEAD <= ${LEAST_DEAD:-0})) || LEAST_DEAD=$DEAD
    echo "$1 $SECONDS $delivered $JOBS $DEAD $size" >>"$RESULTS/churn"
}

# Prints the median of a column of some lines of PART: the first, or the last ones.
#   of_churn PART COLUMN head|tail
of_churn() {
    awk -v part="$1" -v column="$2" '$1 == part { print $column }' "$RESULTS/churn" |
        "$3" -n 5 | sort -g | sed -n 3p
}

churn_table() {
    local first last held
    first=$(of_churn free 3 head) last=$(of_churn free 3 tail) held=$(of_churn held 3 tail)
    line "$(awk '$1 == "free" { jobs += $4 } END { print jobs }' "$RESULTS/churn") jobs come and go, delivered at the end" \
        "$last/s" "$(calculate "$last / $first") of the beginning" '0.9'
    line 'dead rows, and the size of the table at the end' \
        "$(of_churn free 5 tail), $(of_churn free 6 tail) MB" '' 'bounded'
    line "beside a transaction of $HELD s, delivered at its end" "$held/s" \
        "$(calculate "$held / $first") of the beginning" '0.6'
    line 'dead rows at its end, and the size' "$(of_churn held 5 tail), $(of_churn held 6 tail) MB"
    line 'these are reclaimed after' "$(awk '$1 == "reclaimed" { print $2 }' "$RESULTS/churn") s" '' 'within 300 s'
}
