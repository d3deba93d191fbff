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
    require_images
    compose up --detach --remove-orphans
    await_health
    say "api       http://$(compose port api 8000), ready"
}

# Docker Compose 1 has no --wait.
await_health() {
    local begun=$SECONDS service container containers restarts state
    for service in redis api worker; do
        containers=$(compose ps --quiet "$service")
        [[ -n $containers ]] || die "no container of $service was started: check that its number of replicas is not 0"
        for container in $containers; do
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
    die "$(docker inspect --format '{{.Name}}' "$1"): $2; make logs shows more, make down stops the stack"
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

case ${1:-} in
    up | down | logs | demo | --) action=$1 && shift ;;
    --help | -h) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac
choose_compose
case $action in
    up) up ;;
    down) compose down --remove-orphans "$@" ;;
    logs) compose logs --follow --tail=100 "$@" ;;
    demo) demo ;;
    --) compose "$@" ;;
esac
