#!/usr/bin/env bash
# The stack in containers: docker-compose.yml, by whichever Docker Compose is here.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/docker.sh"

UP_SECONDS=120 # until all are healthy

usage() {
    cat <<'USAGE'
usage: scripts/compose.sh up              starts the stack and waits until it is healthy
       scripts/compose.sh down [-v]       stops it; with -v its data goes too
       scripts/compose.sh logs [SERVICE]  follows what it says
       scripts/compose.sh demo            the demo through the containers, which must be up
       scripts/compose.sh -- ARGS...      whatever else Docker Compose can do

Settings are those of docker-compose.yml: docs/examples/compose.env tells them. COMPOSE names the Docker
Compose to use; unset: `docker compose` where there is that plugin, else docker-compose.
USAGE
}

up() {
    require_images
    compose up --detach --remove-orphans
    await_health
    say "api       http://$(compose port api 8000), ready"
}

# v1 has no --wait.
await_health() {
    local begun=$SECONDS service container containers restarts state
    for service in redis api worker; do
        containers=$(compose ps --quiet "$service")
        [[ -n $containers ]] || die "no container of $service was started: is its number set to 0?"
        for container in $containers; do
            while read -r restarts state <<<"$(state_of "$container")" && [[ $state != healthy ]]; do
                if [[ -z $state ]]; then
                    die "a container of $service is gone: make up again"
                elif ((restarts > 1)); then
                    give_up "$container" "it ends and is started again, and again"
                elif ((SECONDS - begun >= UP_SECONDS)); then
                    give_up "$container" "it is $state after $UP_SECONDS s"
                fi
                sleep 0.5
            done
        done
    done
}

# Prints how often a container was restarted, and its health.
#   state_of CONTAINER
state_of() { docker inspect --format '{{.RestartCount}} {{if .State.Health}}{{.State.Health.Status}}{{else}}without a health check{{end}}' "$1"; }

#   give_up CONTAINER WHY
give_up() {
    say "the last that it said:"
    docker logs --tail 3 "$1" >&2 || true
    die "$(docker inspect --format '{{.Name}}' "$1"): $2; make logs tells more, make down ends it all"
}

demo() {
    local service terminal=()
    require_images
    for service in api worker; do
        [[ -n $(compose ps --quiet "$service") ]] || die "the stack is not up: make up"
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
