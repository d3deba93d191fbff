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
    local begun=$SECONDS waiting=()
    while mapfile -t waiting < <(unhealthy) && ((${#waiting[@]} > 0)); do
        if ((SECONDS - begun >= UP_SECONDS)); then
            compose logs --tail=20 >&2
            die "not healthy after $UP_SECONDS s: ${waiting[*]}; what they said last stands above"
        fi
        sleep 0.5
    done
}

# Prints the name and state of every container of the stack that isn't healthy.
unhealthy() {
    local containers
    mapfile -t containers < <(compose ps --quiet)
    docker inspect --format '{{.Name}} {{.State.Health.Status}}' "${containers[@]}" | grep -v ' healthy$' || true
}

demo() {
    local terminal=()
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
