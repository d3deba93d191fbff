#!/usr/bin/env bash
# Tests docker-compose.yml with containers of the loaded images: two workers, the demo, a worker and
# Redis killed under load, permissions and limits, and that nothing is left behind; then the same
# stack on PostgreSQL. It has its own name and a free port, so it can run beside another one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../docker.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../docker.sh"
# shellcheck source-path=SCRIPTDIR source=../support/images.sh
source "$ROOT/scripts/tests/support/images.sh"
# shellcheck source-path=SCRIPTDIR source=../support/postgres-image.sh
source "$ROOT/scripts/tests/support/postgres-image.sh"
# shellcheck source-path=SCRIPTDIR source=../support/listener.sh
source "$ROOT/scripts/tests/support/listener.sh"
read_arguments '' "$@"
with_postgres || true # a wrong value ends the test now, and not after minutes

EVENT_SECONDS=120 # the limit for any event to happen

unset TAG REDIS_IMAGE CALLBACK_CA_FILE API_HOSTS API_OPEN API_TOKENS ADMIN_TOKENS RATE_LIMIT METRICS_TOKEN METRICS_ADDR STORM_TOKEN
COMPOSE_PROJECT_NAME=storm-test-$$
API_PORT=$(free_port 20000)
address=127.0.0.1:$API_PORT
RECEIVERS_NET=198.18.$((100 + RANDOM % 100))
export COMPOSE_PROJECT_NAME API_PORT RECEIVERS_NET
export CALLBACK_ALLOW=$RECEIVERS_NET.10/32 WORKER_REPLICAS=2 WORKER_LEASE=3s

fail() {
    compose logs --tail=20 >&2 || true
    die "FAILED: $test: $*"
}

stack() { "$ROOT/scripts/compose.sh" "$@"; }

# Waits until COMMAND succeeds.
#   until_it WHAT COMMAND...
until_it() {
    local what=$1 begun=$SECONDS
    shift
    until "$@"; do
        ((SECONDS - begun < EVENT_SECONDS)) || fail "$what: not after $EVENT_SECONDS s"
        sleep 0.2
    done
}

# Succeeds if the answer of /healthz matches the pattern ANSWER.
#   health ANSWER
health() { health_is "$address" "$1"; }

#   containers SERVICE
containers() { compose ps --quiet "$1"; }

#   state CONTAINER FORMAT
state() { docker inspect --format "{{$2}}" "$1"; }

# Submits a job and prints its id.
#   accept CALLBACK_URL
accept() {
    local answer
    answer=$(ask "$address" POST /async "{\"records\": 1, \"report_name\": \"a\", \"callback_url\": \"$1\"}")
    sed -nE 's/.*"request_id":"([^"]+)".*/\1/p' <<<"$answer"
}

# Succeeds if the answer of GET /requests/ID matches the pattern ANSWER.
#   job ID ANSWER
job() {
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $(ask "$address" GET "/requests/$1") == $2 ]]
}

# Succeeds if Redis has received at least COUNT notifications.
#   notified COUNT
notified() {
    local count
    count=$(docker exec "$redis" redis-cli --raw xinfo stream high_priority | grep -A1 '^entries-added$' | tail -n 1)
    ((${count:-0} >= $1))
}

# Sends load through the published port, from the host's network, as a client on this machine would.
storm() {
    docker run --rm --network host --read-only --cap-drop ALL storm-loadgen storm \
        --api "http://$address" --poll --mode async --rate 100 --duration 10s --records 200
}

# Checks the user and the capabilities of a container's processes, as the host sees them.
#   is_confined CONTAINER
is_confined() {
    local pid uid
    # The first process is the init that Docker adds, the second is the program.
    docker top "$1" -eo pid,uid | tail -n +2 | while read -r pid uid; do
        [[ $uid == 65532 ]] || fail "its uid is $uid"
        grep -qE '^CapEff:\s+0+$' "/proc/$pid/status" ||
            fail "it has capabilities: $(grep Cap "/proc/$pid/status")"
        grep -qE '^CapBnd:\s+0+$' "/proc/$pid/status" ||
            fail "it could gain capabilities: $(grep Cap "/proc/$pid/status")"
        grep -qE '^NoNewPrivs:\s+1$' "/proc/$pid/status" || fail "it could gain new privileges"
    done
}

# Checks the container's ports and limits, and the options that all containers share.
#   is_limited CONTAINER PORTS MEGABYTES CPUS
is_limited() {
    local options wanted
    options=$(state "$1" 'with .HostConfig}}{{json .PortBindings}} {{.Memory}} {{.NanoCpus}} {{.ReadonlyRootfs}} {{.Init}} {{.RestartPolicy.Name}} {{json .LogConfig.Config}}{{end')
    wanted="$2 $(($3 << 20)) $4 true true unless-stopped {\"max-file\":\"3\",\"max-size\":\"10m\"}"
    [[ $options == "$wanted" ]] || fail "$(state "$1" .Name) has $options, expected $wanted"
}

#   has_no_shell IMAGE
has_no_shell() {
    local shells
    shells=$(files_of "$1" | shells_among)
    [[ -z $shells ]] || fail "$1 has a shell: $shells"
}

# Fails if something of the project is left.
#   nothing_left KIND COMMAND...
nothing_left() {
    local kind=$1 what
    shift
    what=$("$@" --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --quiet)
    [[ -z $what ]] || fail "a $kind is left: $what"
}

choose_compose
trap '[[ -z ${LISTENER:-} ]] || stop_listening; compose --profile loadgen down --volumes --remove-orphans >/dev/null 2>&1 || true' EXIT

test='a taken port is one sentence, and nothing is left running'
listen_on "$API_PORT"
output=$(stack up 2>&1) && fail 'it started'
stop_listening
[[ ${output#compose   *$'\n'} == "compose.sh: port $API_PORT is taken by another program: "*API_PORT=* ]] || fail "$output"
nothing_left container docker ps --all
echo "ok: $test"

test='an unwritable /data names the uid that needs it, and the command that fixes it'
if ((EUID == 0)); then
    docker volume create --label "com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --label com.docker.compose.volume=data "${COMPOSE_PROJECT_NAME}_data" >/dev/null
    folder=$(docker volume inspect --format '{{.Mountpoint}}' "${COMPOSE_PROJECT_NAME}_data")
    touch "$folder/storm.db" # Docker gives an empty volume the owner that the image has
    output=$(stack up 2>&1) && fail 'it started'
    fix=$(sed -nE "s/^compose.sh: .data of .* belongs to uid 0, and uid 65532 can't write to it: sudo (.*) && make up$/\\1/p" <<<"$output")
    [[ $fix == "chown -R 65532:65532 '$folder'" ]] || fail "$output"
    bash -c "$fix"
    rm "$folder/storm.db"
    echo "ok: $test"
else
    echo "skipped: $test, because only root may change the owner of a volume"
fi

test='the stack comes up healthy, with two workers'
stack up
until_it 'Redis is up' health '*200 OK*"redis":"ok"*'
mapfile -t workers < <(containers worker)
((${#workers[@]} == 2)) || fail "there are ${#workers[@]} workers"
api=$(containers api)
redis=$(containers redis)
[[ $(docker port "$api" 8000) == "$address" ]] || fail "the port is published at $(docker port "$api")"
echo "ok: $test"

test='logs in a pipe have no colour codes'
output=$(timeout 60 "$ROOT/scripts/compose.sh" logs api 2>/dev/null | head -n 3 || true)
[[ $output == *'"message"'* && $output != *$'\e'* ]] || fail "the logs: $output"
echo "ok: $test"

test='the demo against the containers: 50 of 50 callbacks are right'
output=$(stack demo) || fail "its status is $?"
echo "$output"
grep -q 'callback: 50 of 50 correct' <<<"$output" || fail 'not every job was delivered correctly'
echo "ok: $test"

test='a worker and Redis are killed under load: every job completes'
storm &
storm=$!
until_it 'jobs are notified' notified 300
docker kill "${workers[0]}" "$redis" >/dev/null
kill -0 "$storm" || fail 'the load ended before the kill'
until_it '/healthz reports Redis down' health 'HTTP/1.1 503*"database":"ok"*'
wait "$storm" || fail "the load test exited with $?"
docker start "${workers[0]}" "$redis" >/dev/null
until_it '/healthz reports Redis up' health '*200 OK*"redis":"ok"*'
for container in "${workers[@]}" "$api" "$redis"; do
    # shellcheck disable=SC2317 # called by name
    healthy() { [[ $(state "$container" .State.Health.Status) == healthy ]]; }
    until_it 'all are healthy' healthy
done
echo "ok: $test"

test='a container runs without root, capabilities and a shell, and within limits'
for container in "${workers[@]}" "$api" "$redis"; do is_confined "$container"; done
is_limited "$api" "{\"8000/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"$API_PORT\"}]}" 512 1000000000
for container in "${workers[@]}"; do is_limited "$container" '{}' 512 1000000000; done
is_limited "$redis" '{}' 256 500000000
for container in "${workers[@]}" "$api"; do
    [[ $(state "$container" .Config.StopTimeout) == 30 ]] || fail 'its grace period is not 30 s'
done
[[ $(docker network inspect --format '{{.Internal}}' "${COMPOSE_PROJECT_NAME}_receivers") == true ]] ||
    fail 'the network of the receivers is not internal'
for image in storm-api storm-worker storm-loadgen storm-redis; do has_no_shell "$image"; done
echo "ok: $test"

test='Redis has an append-only file, a memory limit without eviction, and a health check'
[[ $(docker exec "$redis" redis-cli config get appendonly | tail -n 1) == yes ]] || fail 'it has no append-only file'
[[ $(docker exec "$redis" redis-cli config get maxmemory-policy | tail -n 1) == noeviction ]] || fail 'it evicts entries'
[[ $(docker exec "$redis" redis-cli config get maxmemory | tail -n 1) == $((128 << 20)) ]] || fail 'its memory limit is not 128 MB'
[[ $(state "$redis" 'json .Config.Healthcheck.Test') == '["CMD","redis-cli","-e","ping"]' ]] || fail 'its health check is another one'
echo "ok: $test"

test='callbacks cannot reach the stack itself'
body="{\"records\": 1, \"report_name\": \"a\", \"callback_url\": \"http://$RECEIVERS_NET.11/\"}"
[[ $(ask "$address" POST /async "$body") == 'HTTP/1.1 422 '* ]] || fail 'a private address was accepted'
id=$(accept http://redis:6379/)
until_it 'the job has failed' job "$id" '*"status":"FAILED"*"reason":"callback_refused"*'
echo "ok: $test"

test='a program that is killed is restarted'
if ((EUID == 0)); then
    # shellcheck disable=SC2317 # called by name
    restarted() { (($(state "$api" .RestartCount) > 0)) && health '*200 OK*'; }
    kill -KILL "$(state "$api" .State.Pid)"
    until_it 'it is restarted' restarted
    echo "ok: $test"
else
    echo "skipped: $test, because only root may kill it"
fi

test='the image refuses to start without tokens, and a stack with tokens requires them'
output=$(docker run --rm storm-api 2>&1) && fail 'it started without tokens'
[[ $output == 'API_ADDR=0.0.0.0:8000: '*API_TOKENS*API_OPEN=true* ]] || fail "its message: $output"
made=$(docker run --rm storm-api token new tester 2>/dev/null) || fail 'no token was created'
API_TOKENS=${made##*$'\n'} STORM_TOKEN=${made%%$'\n'*}
export API_TOKENS STORM_TOKEN
stack up
[[ $(ask "$address" GET "/requests/$id") == 'HTTP/1.1 401 '* ]] || fail 'it does not require a token'
output=$(stack demo) || fail "the demo exited with $?: $output"
unset API_TOKENS STORM_TOKEN
stack up
api=$(containers api)
redis=$(containers redis)
mapfile -t workers < <(containers worker)
echo "ok: $test"

test='every container stops gracefully'
compose stop
for container in "${workers[@]}" "$api" "$redis"; do
    [[ $(state "$container" .State.ExitCode) == 0 ]] ||
        fail "$(state "$container" .Name) exited with $(state "$container" .State.ExitCode)"
done
echo "ok: $test"

test='down keeps the data'
stack down
stack up
job "$id" '*"status":"FAILED"*' || fail 'the job is gone'
echo "ok: $test"

test='down -v leaves nothing'
stack down -v
nothing_left container docker ps --all
nothing_left volume docker volume ls
nothing_left network docker network ls
echo "ok: $test"

test='on PostgreSQL: the demo, the server killed under load, and every job completes'
if ! with_postgres; then
    echo "not run: $test: it needs WITH_POSTGRES=yes, and images that were built so"
    exit
fi
export COMPOSE_FILE=docker-compose.yml:docs/examples/compose.postgres.yml
output=$(stack up 2>&1) && fail 'it started without a password'
[[ $output == *'choose the password of the database'* ]] || fail "$output"
export POSTGRES_IMAGE=storm-test-postgres POSTGRES_PASSWORD='a/b@c:d%e'
make_postgres_image "$POSTGRES_IMAGE"
stack up
output=$(stack demo) || fail "the demo exited with $?: $output"
grep -q 'callback: 50 of 50 correct' <<<"$output" || fail "not every job was delivered correctly: $output"
redis=$(containers redis)
postgres=$(containers postgres)
storm &
storm=$!
until_it 'jobs are notified' notified 300
docker kill "$postgres" >/dev/null
kill -0 "$storm" || fail 'the load ended before the kill'
until_it '/healthz reports the database down' health 'HTTP/1.1 503*"database":"unreachable"*'
docker start "$postgres" >/dev/null
until_it '/healthz reports the database up' health '*200 OK*"database":"ok"*'
# Submissions were refused meanwhile. What was accepted, and only that, must end: see below.
wait "$storm" || true
unfinished() { docker exec "$postgres" psql --username storm --tuples-only --no-align \
    --command "SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING')"; }
# shellcheck disable=SC2317 # called by name
all_ended() { [[ $(unfinished) == 0 ]]; }
until_it 'all jobs have ended' all_ended
# The demo's requests to /sync that found no place have failed, too.
failed=$(docker exec "$postgres" psql --username storm --tuples-only --no-align \
    --command "SELECT count(*) FROM requests WHERE status = 'FAILED' AND mode = 'async'")
[[ $failed == 0 ]] || fail "$failed jobs have failed"
stack down -v
nothing_left container docker ps --all
nothing_left volume docker volume ls
unset COMPOSE_FILE
echo "ok: $test"
