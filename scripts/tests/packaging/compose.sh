#!/usr/bin/env bash
# The promises of docker-compose.yml, kept by real containers of the images that are loaded: two workers, the demo
# through the containers, a worker and Redis killed under load, who may do what, and that nothing stays.
# Its stack is its own, on a free port, beside whatever else runs.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../docker.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../docker.sh"
# shellcheck source-path=SCRIPTDIR source=../support/images.sh
source "$ROOT/scripts/tests/support/images.sh"

EVENT_SECONDS=120 # no event is that late, unless it doesn't come

unset TAG REDIS_IMAGE CALLBACK_CA_FILE API_OPEN API_TOKENS RATE_LIMIT METRICS_TOKEN METRICS_ADDR STORM_TOKEN
COMPOSE_PROJECT_NAME=storm-test-$$
API_PORT=$(free_port 20000)
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
        ((SECONDS - begun < EVENT_SECONDS)) || fail "$what: not within $EVENT_SECONDS s"
        sleep 0.2
    done
}

#   health ANSWER     whether /healthz answers so
health() { health_is "127.0.0.1:$API_PORT" "$1"; }

#   containers SERVICE
containers() { compose ps --quiet "$1"; }

#   state CONTAINER FORMAT
state() { docker inspect --format "{{$2}}" "$1"; }

# Sends a request and prints its answer.
#   ask METHOD PATH [BODY]
ask() (
    body=${3:-}
    exec 3<>"/dev/tcp/127.0.0.1/$API_PORT"
    printf '%s %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s' \
        "$1" "$2" "${#body}" "$body" >&3
    cat <&3
)

#   accept CALLBACK_URL      prints the id of a job
accept() {
    local answer
    answer=$(ask POST /async "{\"records\": 1, \"report_name\": \"a\", \"callback_url\": \"$1\"}")
    sed -nE 's/.*"request_id":"([^"]+)".*/\1/p' <<<"$answer"
}

#   job ID ANSWER            whether what is said of it looks like that
job() {
    # shellcheck disable=SC2053 # the right side is meant as a pattern
    [[ $(ask GET "/requests/$1") == $2 ]]
}

rung() {
    local count
    count=$(docker exec "$redis" redis-cli --raw xinfo stream high_priority | grep -A1 '^entries-added$' | tail -n 1)
    ((${count:-0} >= $1))
}

# A load through the published port: from the host's network, as a client's on this machine.
storm() {
    docker run --rm --network host --read-only --cap-drop ALL storm-loadgen storm --api "http://127.0.0.1:$API_PORT" --poll \
        --mode async --rate 100 --duration 10s --records 200
}

# What a process really is, as its host sees it.
#   is_confined CONTAINER
is_confined() {
    local pid uid
    # The first is the init that Docker adds, the second the program.
    docker top "$1" -eo pid,uid | tail -n +2 | while read -r pid uid; do
        [[ $uid == 65532 ]] || fail "its uid is $uid"
        grep -qE '^CapEff:\s+0+$' "/proc/$pid/status" || fail "it has capabilities: $(grep Cap "/proc/$pid/status")"
        grep -qE '^CapBnd:\s+0+$' "/proc/$pid/status" || fail "it could get capabilities: $(grep Cap "/proc/$pid/status")"
        grep -qE '^NoNewPrivs:\s+1$' "/proc/$pid/status" || fail "it could get new privileges"
    done
}

#   is_told CONTAINER PORTS MEGABYTES CPUS      that, and what all are told
is_told() {
    local told wanted
    told=$(state "$1" 'with .HostConfig}}{{json .PortBindings}} {{.Memory}} {{.NanoCpus}} {{.ReadonlyRootfs}} {{.Init}} {{.RestartPolicy.Name}} {{json .LogConfig.Config}}{{end')
    wanted="$2 $(($3 << 20)) $4 true true unless-stopped {\"max-file\":\"3\",\"max-size\":\"10m\"}"
    [[ $told == "$wanted" ]] || fail "$(state "$1" .Name) is told $told, expected $wanted"
}

#   has_no_shell IMAGE
has_no_shell() {
    local shells
    shells=$(files_of "$1" | shells_among)
    [[ -z $shells ]] || fail "$1 has a shell: $shells"
}

#   left KIND COMMAND...       fails if there is something of the project's
left() {
    local kind=$1 what
    shift
    what=$("$@" --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --quiet)
    [[ -z $what ]] || fail "a $kind stayed: $what"
}

choose_compose
trap 'compose --profile loadgen down --volumes --remove-orphans >/dev/null 2>&1 || true' EXIT

test='the stack comes up healthy, with two workers'
stack up
until_it 'Redis is seen' health '*200 OK*"redis":"ok"*'
mapfile -t workers < <(containers worker)
((${#workers[@]} == 2)) || fail "there are ${#workers[@]}"
api=$(containers api)
redis=$(containers redis)
[[ $(docker port "$api" 8000) == "127.0.0.1:$API_PORT" ]] || fail "the port is published at $(docker port "$api")"
echo "ok: $test"

test='the demo through the containers: 50 of 50 callbacks are right'
said=$(stack demo) || fail "its status is $?"
echo "$said"
grep -q 'callback: 50 of 50 correct' <<<"$said" || fail 'not all came back'
echo "ok: $test"

test='a worker and Redis killed under load: every job ends well'
storm &
storm=$!
until_it 'jobs are rung for' rung 300
docker kill "${workers[0]}" "$redis" >/dev/null
kill -0 "$storm" || fail 'the load was over before'
until_it 'Redis is missed' health 'HTTP/1.1 503*"database":"ok"*'
wait "$storm" || fail "the storm's status is $?"
docker start "${workers[0]}" "$redis" >/dev/null
until_it 'Redis is back' health '*200 OK*"redis":"ok"*'
for container in "${workers[@]}" "$api" "$redis"; do
    # shellcheck disable=SC2317 # it is called by name
    healthy() { [[ $(state "$container" .State.Health.Status) == healthy ]]; }
    until_it 'all are healthy' healthy
done
echo "ok: $test"

test='a container is nobody, who may do nothing, within limits'
for container in "${workers[@]}" "$api" "$redis"; do is_confined "$container"; done
is_told "$api" "{\"8000/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"$API_PORT\"}]}" 512 1000000000
for container in "${workers[@]}"; do is_told "$container" '{}' 512 1000000000; done
is_told "$redis" '{}' 256 500000000
for container in "${workers[@]}" "$api"; do
    [[ $(state "$container" .Config.StopTimeout) == 30 ]] || fail 'it is not given 30 s to stop'
done
[[ $(docker network inspect --format '{{.Internal}}' "${COMPOSE_PROJECT_NAME}_receivers") == true ]] || fail 'the receivers can reach out'
for image in storm-api storm-worker storm-loadgen storm-redis; do has_no_shell "$image"; done
echo "ok: $test"

test='Redis keeps its entries in a file, refuses more than it may hold, and has a health check'
[[ $(docker exec "$redis" redis-cli config get appendonly | tail -n 1) == yes ]] || fail 'it has no append-only file'
[[ $(docker exec "$redis" redis-cli config get maxmemory-policy | tail -n 1) == noeviction ]] || fail 'it drops entries'
[[ $(docker exec "$redis" redis-cli config get maxmemory | tail -n 1) == $((128 << 20)) ]] || fail 'it holds what it likes'
[[ $(state "$redis" 'json .Config.Healthcheck.Test') == '["CMD","redis-cli","-e","ping"]' ]] || fail 'its health is something else'
echo "ok: $test"

test='no callback reaches the stack itself'
[[ $(ask POST /async "{\"records\": 1, \"report_name\": \"a\", \"callback_url\": \"http://$RECEIVERS_NET.11/\"}") == 'HTTP/1.1 422 '* ]] || fail 'an address was accepted'
id=$(accept http://redis:6379/)
until_it 'it has ended' job "$id" '*"status":"FAILED"*"reason":"callback_refused"*'
echo "ok: $test"

test='a program that is killed is started again'
if ((EUID == 0)); then
    # shellcheck disable=SC2317 # it is called by name
    restarted() { (($(state "$api" .RestartCount) > 0)) && health '*200 OK*'; }
    kill -KILL "$(state "$api" .State.Pid)"
    until_it 'it is back' restarted
    echo "ok: $test"
else
    echo "left out: $test; only root may kill it"
fi

test='the image alone is not open to whoever reaches it, and with tokens the stack is not either'
said=$(docker run --rm storm-api 2>&1) && fail 'it started without tokens'
[[ $said == 'API_ADDR=0.0.0.0:8000: '*API_TOKENS*API_OPEN=true* ]] || fail "it says: $said"
made=$(docker run --rm storm-api token new tester 2>/dev/null) || fail 'no token was made'
API_TOKENS=${made##*$'\n'} STORM_TOKEN=${made%%$'\n'*}
export API_TOKENS STORM_TOKEN
stack up
[[ $(ask GET "/requests/$id") == 'HTTP/1.1 401 '* ]] || fail 'it asks for no token'
said=$(stack demo) || fail "the demo's status is $?: $said"
unset API_TOKENS STORM_TOKEN
stack up
api=$(containers api)
redis=$(containers redis)
mapfile -t workers < <(containers worker)
echo "ok: $test"

test='they end in order when told to'
compose stop
for container in "${workers[@]}" "$api" "$redis"; do
    [[ $(state "$container" .State.ExitCode) == 0 ]] || fail "$(state "$container" .Name) ended with $(state "$container" .State.ExitCode)"
done
echo "ok: $test"

test='down keeps the data'
stack down
stack up
job "$id" '*"status":"FAILED"*' || fail 'the job is gone'
echo "ok: $test"

test='down -v leaves nothing'
stack down -v
left container docker ps --all
left volume docker volume ls
left network docker network ls
echo "ok: $test"
