#!/usr/bin/env bash
# Runs the stack in containers: docker-compose.yml, with the Docker Compose that is installed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/docker.sh"

UP_SECONDS=120 # the limit until all containers are healthy

usage() {
    cat <<'USAGE'
usage: scripts/compose.sh up              start the stack and wait until it is healthy
       scripts/compose.sh down [-v]       stop it; -v also deletes its data
       scripts/compose.sh logs [SERVICE]  follow its logs
       scripts/compose.sh demo            run the demo against the running containers
       scripts/compose.sh -- ARGS...      run any other command of Docker Compose

docs/examples/compose.env lists the settings. COMPOSE is the Docker Compose command to use; unset, it is
`docker compose` if that plugin is installed, else docker-compose.
USAGE
}

up() {
    local address running begun
    require_images
    running=$(running_containers)
    [[ -n $running ]] || require_free_ports
    if ! compose up --detach --remove-orphans; then
        [[ -z $running ]] || die "the stack could not be started, and what ran before may be stopped: make down stops the rest"
        compose down --remove-orphans >/dev/null 2>&1 || true
        die "the stack could not be started, and nothing of it is left running"
    fi
    await_health
    address=$(compose port api 8000)
    say "api       http://$address, ready"
    # The health checks of the containers pass without Redis, so only this shows that none answers.
    begun=$SECONDS
    until is_healthy "$address"; do
        if ((SECONDS - begun > 3)); then
            say "redis     it does not answer (REDIS_URL), so the workers poll the table: see http://$address/healthz"
            break
        fi
        sleep 0.2
    done
}

# Prints the ids of this stack's containers that run.
running_containers() {
    local containers
    mapfile -t containers < <(compose ps --quiet)
    ((${#containers[@]} == 0)) ||
        docker inspect --format '{{if .State.Running}}{{.Id}}{{end}}' "${containers[@]}" | grep . || true
}

# Fails if another program has a port that the stack publishes. The ports are those of this machine
# only if its own engine is used.
require_free_ports() {
    local port
    [[ ${DOCKER_HOST:-unix:} == unix:* ]] || return 0
    for port in $(published_ports); do
        ! is_busy 127.0.0.1 "$port" ||
            die "port $port is taken by another program: choose another: make up API_PORT=$((port + 1))"
    done
}

# Docker Compose 1 prints "- 127.0.0.1:8000:8000/tcp", and 2 has a line with "published:".
published_ports() {
    awk '
        { gsub(/"/, "") }
        $1 == "-" && $2 ~ /^([0-9.]+:)?[0-9]+:[0-9]+(\/tcp)?$/ { count = split($2, part, ":"); print part[count - 1] }
        $1 == "published:" { print $2 }
    ' <<<"$COMPOSE_CONFIG"
}

# Docker Compose 1 has no --wait.
await_health() {
    local begun=$SECONDS service container containers restarts state
    for service in redis api worker; do
        containers=$(compose ps --quiet "$service")
        [[ -n $containers ]] || die "no container of $service was started: check that its number of replicas is not 0"
        for container in $containers; do
            require_writable_data "$container"
            while read -r restarts state <<<"$(state_of "$container")" && [[ $state != healthy ]]; do
                if [[ -z $state ]]; then
                    die "a container of $service is gone: run make up again"
                elif ((restarts > 1)); then
                    give_up "$container" "it keeps exiting and restarting"
                elif ((SECONDS - begun >= UP_SECONDS)); then
                    give_up "$container" "it is still $state after $UP_SECONDS s"
                fi
                sleep 0.5
            done
        done
    done
}

# Fails if the user of a container can't write to its /data: an older volume, or a folder of the
# host, can belong to another user.
require_writable_data() {
    local uid gid mode owner group folder remedy
    IFS=: read -r uid gid < <(docker inspect --format '{{.Config.User}}' "$1")
    [[ $uid =~ ^[0-9]+$ && $gid =~ ^[0-9]+$ ]] || return 0
    # The image has no program that could show it. The first header of this archive is of /data.
    read -r mode owner _ < <(docker cp "$1:/data" - 2>/dev/null | head -c 2048 |
        tar --list --verbose --numeric-owner 2>/dev/null) || return 0
    group=${owner#*/} owner=${owner%/*}
    folder=$(docker inspect --format '{{range .Mounts}}{{if eq .Destination "/data"}}{{.Source}}{{end}}{{end}}' "$1")
    remedy="sudo chown -R $uid:$gid '$folder'"
    if [[ $owner == "$uid" ]]; then
        [[ ${mode:2:1} == w ]] && return
        remedy="sudo chmod u+rwx '$folder'"
    elif [[ $group == "$gid" ]]; then
        [[ ${mode:5:1} == w ]] && return
    else
        [[ ${mode:8:1} == w ]] && return
    fi
    die "/data of $(name_of "$1") belongs to uid $owner, and uid $uid can't write to it: $remedy && make up"
}

#   name_of CONTAINER
name_of() { docker inspect --format '{{slice .Name 1}}' "$1"; }

# Prints the number of restarts of a container, and its health.
#   state_of CONTAINER
state_of() {
    docker inspect "$1" --format \
        '{{.RestartCount}} {{if .State.Health}}{{.State.Health.Status}}{{else}}without a health check{{end}}'
}

#   give_up CONTAINER WHY
give_up() {
    say "the last lines of its log:"
    docker logs --tail 3 "$1" >&2 || true
    die "$(name_of "$1"): $2; make logs shows more, make down stops the stack"
}

logs() {
    local colours=()
    has_colours || colours=(--no-color)
    compose logs --follow --tail=100 "${colours[@]}" "$@"
}

demo() {
    local service terminal=()
    require_images
    for service in api worker; do
        [[ -n $(compose ps --quiet "$service") ]] || die "the stack is not running: make up"
    done
    [[ -t 0 && -t 1 ]] || terminal=(-T)
    compose run --rm --use-aliases "${terminal[@]}" loadgen
}

action=${1:-}
case $action in
    --) ;;
    up | down | logs | demo)
        for argument; do
            case $argument in
                --help | -h) usage && exit ;;
            esac
        done
        ;;
    --help | -h) usage && exit ;;
    *) wrong "expected up, down, logs, demo or --${1:+, not $1}" ;;
esac
shift
case $action in
    up | demo) (($# == 0)) || wrong "unexpected argument $1" ;;
    down) [[ -z $* || $* == -v || $* == --volumes ]] || wrong "down: expected -v or nothing, not $*" ;;
esac
choose_compose
case $action in
    up) up ;;
    down) compose down --remove-orphans "$@" ;;
    logs) logs "$@" ;;
    demo) demo ;;
    --) compose "$@" ;;
esac
