#!/usr/bin/env bash
# Shared by the container scripts: find Docker, Docker Compose and the images. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

require_engine() {
    local problem
    command -v docker >/dev/null ||
        die "docker is not installed: install Docker Engine (Debian: docker.io; others: https://docs.docker.com/engine/install/)"
    problem=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null) ||
        die "no Docker engine answers: start it (systemctl start docker), or allow this user to use it; docker says: ${problem%%$'\n'*}"
}

# Sets COMPOSE_COMMAND, and prints which one it is.
choose_compose() {
    local version
    require_engine
    if [[ -n ${COMPOSE:-} ]]; then
        read -ra COMPOSE_COMMAND <<<"$COMPOSE"
    elif docker compose version >/dev/null 2>&1; then
        COMPOSE_COMMAND=(docker compose)
    elif command -v docker-compose >/dev/null; then
        COMPOSE_COMMAND=(docker-compose)
    else
        die "Docker Compose is not installed: install it (Debian: docker-compose; others: https://docs.docker.com/compose/install/)"
    fi
    version=$("${COMPOSE_COMMAND[@]}" version --short 2>/dev/null) ||
        die "${COMPOSE_COMMAND[*]} does not run: ${COMPOSE:+correct or unset COMPOSE, or }install Docker Compose"
    say "compose   ${COMPOSE_COMMAND[*]}, $version"
}

# Runs in the project's root, where docker-compose.yml, .env and docker-compose.override.yml are.
compose() (cd -- "$ROOT" && "${COMPOSE_COMMAND[@]}" "$@")

# Fails if one of our images is missing. Docker must not look for it in a registry: a stranger could
# have published an image of that name there. Sets COMPOSE_CONFIG to the settings that are in force.
require_images() {
    local image
    COMPOSE_CONFIG=$(compose --profile loadgen config) || die "docker-compose.yml is invalid with these settings"
    while read -r image; do
        docker image inspect "$image" >/dev/null 2>&1 ||
            die "image $image is missing: make images${TAG:+ TAG=$TAG}"
    done < <(awk '$1 == "image:" && $2 ~ /^storm-/ { print $2 }' <<<"$COMPOSE_CONFIG")
}

# Prints the commit that this folder has, with `-dirty` if files differ from it, as Nix does.
revision() {
    local commit=''
    if [[ -e $ROOT/.git ]] && commit=$(git -C "$ROOT" rev-parse HEAD 2>/dev/null); then
        [[ -z $(git -C "$ROOT" status --porcelain --untracked-files=no) ]] || commit+=-dirty
    fi
    printf '%s' "${commit:-unknown}"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"
