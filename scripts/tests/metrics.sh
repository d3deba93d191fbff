#!/usr/bin/env bash
# Tests the metrics of a real API and worker under a little load, and what is written about them:
# every metric is in docs/OPERATIONS.md, and every metric that it names, or that the examples for
# Prometheus and Grafana use, exists. Every alert has an entry of the runbook. Where promtool can be
# had, it checks the metrics, and tests the rules.
# shellcheck disable=SC2016 # the backticks are Markdown
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
read_arguments '' "$@"
cd -- "$ROOT"

MANUAL=docs/OPERATIONS.md
RULES=docs/examples/prometheus/rules.yml
DASHBOARD=docs/examples/grafana/dashboard.json

build_as_tests api worker
promtool=$(scripts/find-tool.sh promtool) || promtool=''
sqlite3=$(scripts/find-tool.sh sqlite3) || sqlite3=''

status=0
failed() {
    echo "FAILED: $1"
    status=1
}

# Fails for each line that it reads.
#   none WHAT <LINES
none() {
    local line
    while IFS= read -r line; do failed "$1: $line"; done
}

skipped() { echo "skipped: $1, because promtool is not installed"; }

#   submit PATH BODY
submit() { ask "$API_ADDR" POST "$1" "$2" >"$STACK_DIR/answer"; }

# Prints the metrics of a service.
#   scrape ADDRESS
scrape() { ask "$1" GET /metrics | sed '1,/^\r*$/d'; }

# Waits until a metric of the worker has a value.
#   worker_shows METRIC VALUE
worker_shows() {
    local try
    for try in {1..600}; do
        scrape "$WORKER_ADDR" >"$STACK_DIR/worker.metrics"
        ! grep -qxF "$1 $2" "$STACK_DIR/worker.metrics" || return 0
        sleep 0.1
    done
    die "the worker did not show $1 $2 in $((try / 10)) s; it shows $(grep -F "$1" "$STACK_DIR/worker.metrics")"
}

# Prints the names of the families that a service exposes.
#   families SERVICE
families() { sed -nE 's/^# TYPE ([^ ]+) .*/\1/p' "$STACK_DIR/$1.metrics"; }

# Prints the metrics of a part of the manual, with the prefix of each service.
#   documented FROM TO
documented() {
    # In the tables only: elsewhere are queries, with the suffixes of histograms.
    sed -nE "/^$1\$/,/^$2\$/ s/"'^\| (`.*) \| (counter|gauge|histogram) \|.*/\1/p' "$MANUAL" |
        grep -oE '`[a-z_*]+' | tr -d '`' |
        sed -E '/^storm_\*_/ { s/^storm_\*_(.*)/storm_api_\1\nstorm_worker_\1/ }' | sort
}

# Prints the metrics in the queries that it reads.
queried() {
    grep -oE '\b(storm|process)_[a-z_]+' | sed -E '/_(bucket|sum|count)$/ s/_(bucket|sum|count)$//' | sort -u
}

# Prints the queries of the rules and of the dashboard, one a line.
queries_of_rules() {
    awk '/^ *expr:/ { on = 1; sub(/^ *expr:( \|)?/, "") } /^ *(for|labels):/ { on = 0 } on' "$RULES"
}
queries_of_dashboard() { sed -nE 's/.*"expr": "(([^"\\]|\\.)*)".*/\1/p' "$DASHBOARD" | sed 's/\\"/"/g'; }

# For the metrics that have a handler as a label.
export HANDLERS__PDF__URL=http://127.0.0.1:1/
stack_start api worker
submit /async '{"records": 1, "report_name": "a"}'
submit /async '{"records": 1, "report_name": "a", "callback_url": "http://127.0.0.1/"}'
submit /sync '{"records": 1, "report_name": "a"}'
worker_shows 'storm_worker_ended_jobs_total{outcome="completed"}' 1
scrape "$API_ADDR" >"$STACK_DIR/api.metrics"

for service in api worker; do
    if [[ -z $promtool ]]; then
        skipped "promtool check metrics of the $service"
    elif "$promtool" check metrics <"$STACK_DIR/$service.metrics"; then
        echo "ok: promtool accepts the metrics of the $service"
    else
        failed "promtool does not accept the metrics of the $service"
    fi
    none "the $service exposes twice" < <(families "$service" | sort | uniq -d)
done

{ families api && families worker; } | sort -u >"$STACK_DIR/exposed"
documented '## Metrics' '### PostgreSQL' >"$STACK_DIR/documented"
# The other engine's, which this stack has not: tests of the programs compare these.
documented '### PostgreSQL' '### Clocks' >"$STACK_DIR/on_postgres"
(($(wc -l <"$STACK_DIR/on_postgres") > 10)) || failed "the metrics of PostgreSQL in $MANUAL were not found"
(($(wc -l <"$STACK_DIR/documented") > 60)) || failed "the tables of $MANUAL were not found"
sort -u "$STACK_DIR/documented" >"$STACK_DIR/known"
{ queries_of_rules && queries_of_dashboard && cat "$MANUAL"; } | queried >"$STACK_DIR/queried"
none "$MANUAL has twice" < <(uniq -d "$STACK_DIR/documented")
none "$MANUAL does not have" < <(comm -23 "$STACK_DIR/exposed" "$STACK_DIR/known")
none "$MANUAL has, but no service exposes" < <(comm -13 "$STACK_DIR/exposed" "$STACK_DIR/known")
none "$RULES, $DASHBOARD or $MANUAL uses, but no service exposes" < <(
    comm -13 "$STACK_DIR/exposed" "$STACK_DIR/queried" | grep -vxE 'storm_(api|worker)_' |
        grep -vxFf "$STACK_DIR/on_postgres"
)
((status)) || echo "ok: $(wc -l <"$STACK_DIR/exposed") metrics are exposed and documented"

sed -nE 's/^ *- alert: //p' "$RULES" | sort >"$STACK_DIR/alerts"
(($(wc -l <"$STACK_DIR/alerts") > 20)) || failed "the alerts of $RULES were not found"
while IFS= read -r alert; do
    grep -qxF "### $alert" "$MANUAL" || failed "$MANUAL has no runbook entry for $alert"
    grep -q "^| \[$alert\](#${alert,,}) |" "$MANUAL" || failed "the table of alerts in $MANUAL lacks $alert"
    grep -q "^ *runbook: $MANUAL#${alert,,}\$" "$RULES" || failed "$alert in $RULES does not name its runbook entry"
done <"$STACK_DIR/alerts"
none "$RULES has no alert" < <(
    sed -n 's/^### \(Storm.*\)/\1/p' "$MANUAL" | sort | comm -13 "$STACK_DIR/alerts" -
)
((status)) || echo "ok: $(wc -l <"$STACK_DIR/alerts") alerts have a runbook entry"

# A panel with the id of another, or with a data source of its own, shows nothing after an import.
if [[ -z $sqlite3 ]]; then
    echo "skipped: the form of $DASHBOARD, because sqlite3 is not installed"
elif faults=$("$sqlite3" :memory: "
    WITH dashboard AS (SELECT CAST(readfile('$DASHBOARD') AS TEXT) AS board)
    SELECT 'no schemaVersion or title' FROM dashboard
        WHERE json_extract(board, '$.schemaVersion') IS NULL OR json_extract(board, '$.title') IS NULL
    UNION ALL SELECT 'two panels have the id ' || atom FROM dashboard, json_tree(board)
        WHERE key = 'id' AND path GLOB '$.panels*' GROUP BY atom HAVING count(*) > 1
    UNION ALL SELECT 'the data source ' || atom FROM dashboard, json_tree(board)
        WHERE key = 'uid' AND path GLOB '*.datasource' AND atom <> '\${datasource}'
    UNION ALL SELECT 'no variable datasource' FROM dashboard WHERE NOT EXISTS (
        SELECT 1 FROM json_each(board, '$.templating.list')
        WHERE json_extract(value, '$.name') = 'datasource'
            AND json_extract(value, '$.type') = 'datasource')" 2>&1); then
    [[ -z $faults ]] || none "$DASHBOARD" <<<"$faults"
    [[ -n $faults ]] || echo "ok: $DASHBOARD is a dashboard with a variable for the data source"
else
    failed "$DASHBOARD: $faults"
fi

if [[ -z $promtool ]]; then
    skipped 'the examples for Prometheus and Grafana'
    exit "$status"
fi
# The queries of the dashboard, as rules.
{
    echo 'groups: [{name: dashboard, rules: ['
    queries_of_dashboard | sed -e 's/\$__rate_interval/5m/g' -e "s/'/''/g" -e "s/.*/{record: a:b, expr: '&'},/"
    echo ']}]'
} >"$STACK_DIR/dashboard.yml"
checked() {
    local what=$1
    shift
    if "$@" >"$STACK_DIR/answer" 2>&1; then
        echo "ok: $what"
    else
        failed "$what: $(<"$STACK_DIR/answer")"
    fi
}
(($(grep -c record "$STACK_DIR/dashboard.yml") > 40)) || failed "the queries of $DASHBOARD were not found"
checked "the queries of $DASHBOARD" "$promtool" check rules "$STACK_DIR/dashboard.yml"
checked docs/examples/prometheus/prometheus.yml "$promtool" check config docs/examples/prometheus/prometheus.yml
checked "the alerts fire as their tests say" "$promtool" test rules docs/examples/prometheus/rules_test.yml
tested() { sed -nE 's/^ *alertname: //p' docs/examples/prometheus/rules_test.yml | sort; }
none 'rules_test.yml does not test both that it fires and that it is quiet' < <(
    tested | uniq -c | awk '$1 < 2 { print $2 }'
    tested | sort -u | comm -23 "$STACK_DIR/alerts" -
)
exit "$status"
