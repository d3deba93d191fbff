#!/usr/bin/env bash
# Builds the images of docker-compose.yml and loads them into Docker.
#   IMAGE_BUILDER   nix: build the flake's images; host: build with cargo, pack with pack-images.sh
#                   [nix if it is installed and new enough, else host, and one line says why]
#   WITH_POSTGRES   yes: with the engine for PostgreSQL, by cargo [no]
#   TAG             a second tag for the images, beside `latest`
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/docker.sh"

read_arguments '' "$@"
builder=${IMAGE_BUILDER:-nix} why=IMAGE_BUILDER=host
if with_postgres; then
    [[ ${IMAGE_BUILDER:-host} == host ]] || die "WITH_POSTGRES=yes: such images are built by cargo: IMAGE_BUILDER=host"
    builder=host why=WITH_POSTGRES=yes
fi
[[ $builder == nix || $builder == host ]] || die "IMAGE_BUILDER=$builder: expected nix or host"
[[ $(uname) == Linux ]] || die "images are built on Linux; elsewhere use a Nix builder for Linux: nix build .#packages.aarch64-linux.load-images"
require_engine
if [[ $builder == nix ]] && ! why=$("$ROOT/scripts/nix.sh" usable 2>&1); then
    [[ -z ${IMAGE_BUILDER:-} ]] || { say "$why" && exit 1; }
    builder=host why="because ${why#nix.sh: }"
fi

case $builder in
    nix)
        say "images    built with Nix"
        flake=$("$ROOT/scripts/nix.sh" ref)
        "$ROOT/scripts/nix.sh" run "$flake#load-images"
        ;;
    host)
        say "images    built with cargo and Docker, $why"
        "$ROOT/scripts/pack-images.sh"
        ;;
esac
for image in api worker loadgen redis; do
    [[ ${TAG:-latest} == latest ]] || docker tag "storm-$image:latest" "storm-$image:$TAG"
done
docker image ls --format '{{.Repository}}:{{.Tag}}  {{.Size}}' --filter 'reference=storm-*:latest' >&2
