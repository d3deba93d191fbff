#!/usr/bin/env bash
# What the scripts around containers share: is there an engine, which Docker Compose. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

require_engine() {
    local problem
    command -v docker >/dev/null ||
        die "there is no docker here: install Docker Engine (Debian: docker.io; others: https://docs.docker.com/engine/install/)"
    problem=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null) ||
        die "no Docker engine answers: start it (systemctl start docker), or let this user use it; docker says: ${problem%%$'\n'*}"
}

# Sets COMPOSE_COMMAND, and says which.
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
        die "there is no Docker Compose here: install it (Debian: docker-compose; others: https://docs.docker.com/compose/install/)"
    fi
    version=$("${COMPOSE_COMMAND[@]}" version --short 2>/dev/null) ||
        die "${COMPOSE_COMMAND[*]} is no Docker Compose that runs: ${COMPOSE:+correct COMPOSE or unset it, or }install Docker Compose"
    say "compose   ${COMPOSE_COMMAND[*]}, $version"
}

# From the project's root, where docker-compose.yml lies, and the user's .env and override.
compose() (cd -- "$ROOT" && "${COMPOSE_COMMAND[@]}" "$@")

# Says what to do where an image of ours is missing. Nobody is to look for it in a registry: there, others
# could have put one of that name.
require_images() {
    local settings image
    settings=$(compose --profile loadgen config) || die "docker-compose.yml can't be used with these settings"
    while read -r image; do
        docker image inspect "$image" >/dev/null 2>&1 ||
            die "there is no image $image: make images${TAG:+ TAG=$TAG}"
    done < <(awk '$1 == "image:" && $2 ~ /^storm-/ { print $2 }' <<<"$settings")
}

#   manifest_field KEY PROJECT     of its Cargo.toml
manifest_field() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" "$ROOT/$2/Cargo.toml"; }
