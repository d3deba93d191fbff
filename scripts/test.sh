#!/usr/bin/env bash
# Runs the tests of one project, with a Redis and a PostgreSQL server of their own. `postgres` runs
# those of the store's engine for PostgreSQL only; `pooler`, its promises through a PgBouncer.
# TEST_STORE=postgres runs the tests of api or worker on PostgreSQL, but for those that are about
# SQLite (modules `sqlite_...`). All are built with the features `postgres` and `traces`. A test
# that hangs fails the run: when no test has ended for SILENCE seconds (900), those that still run
# are named, and the run is ended.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=postgres.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/postgres.sh"
read_arguments PROJECT "$@"
(($# == 1)) || wrong 'name one project: shared, api, worker or loadgen; or postgres or pooler'
project=$1
silence=${SILENCE:-900}
[[ $silence =~ ^[1-9][0-9]*$ ]] || wrong "SILENCE=$silence is no whole number of seconds"
cd -- "$ROOT"
manifest=$project/Cargo.toml
filters=()
[[ ${TEST_STORE:-sqlite} =~ ^(sqlite|postgres)$ ]] ||
    wrong "TEST_STORE=$TEST_STORE: expected sqlite or postgres"
if [[ ${TEST_STORE:-} == postgres ]]; then
    [[ $project =~ ^(api|worker)$ ]] || wrong "TEST_STORE: $project has one test suite for all stores"
    filters=(-- --skip sqlite_)
fi
case $project in
    postgres) manifest=shared/Cargo.toml filters=(--lib --test it postgres) ;;
    pooler) manifest=shared/Cargo.toml filters=(--test it ::postgres::) ;;
esac
[[ -f $manifest ]] || wrong "there is no project $project"

# A test of the worker needs faketime to set the clock.
if [[ $project == worker ]]; then
    scripts/find-tool.sh faketime >/dev/null ||
        echo "a test is skipped: setting_the_clock_neither_delays_a_retry_nor_hastens_it"
fi
REDIS_SERVER=$(scripts/find-tool.sh redis-server) && export REDIS_SERVER
scripts/find-tool.sh sqlite3 >/dev/null

trap stop_postgres EXIT
start_postgres without
if [[ $manifest == shared/* ]]; then PGBOUNCER=$(scripts/find-tool.sh pgbouncer) && export PGBOUNCER; fi
[[ $project != pooler ]] || start_pooler

# A test of the worker runs the API, too.
if [[ $project == worker && -z ${TEST_API:-} ]]; then
    build_as_tests api
    export TEST_API=$STORM_BIN/storm-api
fi

if [[ $project == api && ${TEST_STORE:-sqlite} == sqlite ]]; then
    export ANSWERS_SEEN=$ROOT/target/answers-seen.txt
    rm -f "$ANSWERS_SEEN"
fi

choose_all_features "${manifest%/*}"
# In a process group of its own, so that the tests end with all that they have started.
mkdir -p target
log=target/test-$project.log
: >"$log"
set -m
cargo test --locked --manifest-path "$manifest" "${features[@]}" "${filters[@]}" >"$log" 2>&1 &
tests=$!
set +m
trap 'kill -TERM -- "-$tests" 2>/dev/null || true; stop_postgres' EXIT

# Cargo prints a line for each crate that it compiles and for each test that ends, and one for a
# test that has run for a minute.
exec 3<"$log"
size=0
shown=$SECONDS
while kill -0 "$tests" 2>/dev/null; do
    cat <&3
    if ((size != (size = $(wc -c <"$log")))); then
        shown=$SECONDS
    elif ((SECONDS - shown >= silence)); then
        say "test.sh: no test of $project has ended for $silence s: the run is ended. Still running:"
        awk '/^test .* has been running for over / { slow[$2] } / \.\.\. / { delete slow[$2] }
            END { for (test in slow) print "  " test }' "$log" >&2
        exit 1
    fi
    sleep 0.2
done
cat <&3
wait "$tests"

# Which of the described answers they have seen, all together.
if [[ -n ${ANSWERS_SEEN:-} ]]; then
    cargo test --quiet --locked --manifest-path "$manifest" "${features[@]}" --test it -- \
        --ignored --exact --nocapture contract::seen::every_described_answer_was_seen_or_has_a_reason
fi
