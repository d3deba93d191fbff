#!/usr/bin/env bash
# The promise of images.sh, compose.sh and nix.sh where something is missing: one line that says what to do.
# docker, docker-compose and nix are stand-ins; scripts/tests/packaging/ has the real ones.
# shellcheck disable=SC2016 # the stand-ins expand what they are made of
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$ROOT/scripts/tests/support/path.sh"

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'rm -rf "$work"' EXIT
path_without "$work/path" docker docker-compose nix

# Puts a program in the PATH.
#   have NAME BODY
have() {
    printf '#!/usr/bin/env bash\n%s\n' "$2" >"$work/path/$1"
    chmod +x "$work/path/$1"
}

# Runs a script of the project, which must fail with one line of its own, and in it TEXT.
#   refuses TEXT [VARIABLE=VALUE]... SCRIPT [ARGUMENT...]
refuses() {
    local text=$1 said assignments=() status=0
    shift
    while [[ $1 == *=* ]]; do assignments+=("$1") && shift; done
    said=$(env -u COMPOSE -u IMAGE_BUILDER -u TAG PATH="$work/path" "${assignments[@]}" "$ROOT/scripts/$1" "${@:2}" 2>&1) || status=$?
    ((status == 1)) || fail "$1 ended with $status: $said"
    said=$(grep -vE '^(compose|images|nixpkgs)   ' <<<"$said") # what was chosen
    [[ $said == *"$text"* && $said != *$'\n'* ]] || fail "$1 said: $said"
}

fail() {
    echo "FAILED: $test: $*"
    exit 1
}

test='without Docker there is one line'
refuses 'install Docker Engine' compose.sh up
refuses 'install Docker Engine' images.sh
refuses 'install Docker Engine' IMAGE_BUILDER=host images.sh
echo "ok: $test"

test='without an engine there is one line'
have docker 'echo "Cannot connect to the Docker daemon." >&2; exit 1'
refuses 'no Docker engine answers: start it' compose.sh up
refuses 'docker says: Cannot connect' images.sh
echo "ok: $test"

test='without Docker Compose there is one line'
have docker '[[ $1 == version ]]' # an engine that answers, and has no image of ours
refuses 'there is no Docker Compose here: install it' compose.sh up
refuses 'no-such-thing is no Docker Compose that runs: correct COMPOSE' COMPOSE=no-such-thing compose.sh up
echo "ok: $test"

test='without the images there is one line'
have docker-compose '
    case $* in
        "version --short") echo 1.29.2 ;;
        *config) echo "    image: storm-api:latest" ;;
        *) exit 9 ;;
    esac'
refuses 'there is no image storm-api:latest: make images' compose.sh up
refuses 'there is no image storm-api:latest: make images' compose.sh demo
refuses 'make images TAG=7' TAG=7 compose.sh up
echo "ok: $test"

test='without Nix there is one line'
refuses 'there is no nix here: install it' IMAGE_BUILDER=nix images.sh
refuses 'there is no nix here: install it' nix.sh flake check
refuses 'IMAGE_BUILDER=elf: expected nix or host' IMAGE_BUILDER=elf images.sh
echo "ok: $test"
