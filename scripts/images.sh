#!/usr/bin/env bash
# Builds the images that docker-compose.yml wants, and loads them into Docker.
#   IMAGE_BUILDER   nix: the flake's; host: cargo's binaries, packed by pack-images.sh; unset: nix where it is
#   TAG             another tag for them, beside `latest`
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/docker.sh"

builder=${IMAGE_BUILDER:-}
case $builder in
    nix | host) ;;
    '') if command -v nix >/dev/null; then builder=nix; else builder=host; fi ;;
    *) die "IMAGE_BUILDER=$builder: expected nix or host" ;;
esac
[[ $(uname) == Linux ]] || die "images are made on Linux; elsewhere: nix build .#packages.aarch64-linux.load-images, on a builder for it"
require_engine
say "images    by ${builder/host/cargo and Docker, as with IMAGE_BUILDER=host}"

case $builder in
    nix)
        flake=$("$ROOT/scripts/nix.sh" ref)
        "$ROOT/scripts/nix.sh" run "$flake#load-images"
        ;;
    host) "$ROOT/scripts/pack-images.sh" ;;
esac
for image in api worker loadgen redis; do
    [[ ${TAG:-latest} == latest ]] || docker tag "storm-$image:latest" "storm-$image:$TAG"
done
docker image ls --format '{{.Repository}}:{{.Tag}}  {{.Size}}' --filter 'reference=storm-*:latest' >&2
