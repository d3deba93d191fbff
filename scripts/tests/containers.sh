#!/usr/bin/env bash
# Tests images.sh, compose.sh and nix.sh without the tools that they need: each fails with one line
# that says what to do. docker, docker-compose and nix are stubs; scripts/tests/packaging/ uses the
# real ones.
# shellcheck disable=SC2016 # the stubs expand their own text
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/path.sh"
read_arguments '' "$@"

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'rm -rf "$work"' EXIT
path_without "$work/path" docker docker-compose nix

# Puts a stub in the PATH.
#   have NAME BODY
have() {
    printf '#!/usr/bin/env bash\n%s\n' "$2" >"$work/path/$1"
    chmod +x "$work/path/$1"
}

# Runs a script of the project, which must fail with one line that contains TEXT.
#   refuses TEXT [VARIABLE=VALUE]... SCRIPT [ARGUMENT...]
refuses() {
    local text=$1 output assignments=() status=0
    shift
    while [[ $1 == *=* ]]; do assignments+=("$1") && shift; done
    output=$(env -u COMPOSE -u IMAGE_BUILDER -u TAG PATH="$work/path" "${assignments[@]}" \
        "$ROOT/scripts/$1" "${@:2}" 2>&1) || status=$?
    ((status == 1)) || fail "$1 exited with $status: $output"
    output=$(grep -vE '^(compose|images|nixpkgs)   ' <<<"$output") # which tool was chosen
    [[ $output == *"$text"* && $output != *$'\n'* ]] || fail "$1 printed: $output"
}

fail() {
    echo "FAILED: $test: $*"
    exit 1
}

test='without Docker, one line says what to install'
refuses 'install Docker Engine' compose.sh up
refuses 'install Docker Engine' images.sh
refuses 'install Docker Engine' IMAGE_BUILDER=host images.sh
echo "ok: $test"

test='without a running engine, one line says what to do'
have docker 'echo "Cannot connect to the Docker daemon." >&2; exit 1'
refuses 'no Docker engine answers: start it' compose.sh up
refuses 'docker says: Cannot connect' images.sh
echo "ok: $test"

test='without Docker Compose, one line says what to install'
have docker '[[ $1 == version ]]' # an engine without our images
refuses 'Docker Compose is not installed: install it' compose.sh up
refuses 'no-such-thing does not run: correct or unset COMPOSE' COMPOSE=no-such-thing compose.sh up
echo "ok: $test"

test='without the images, one line says how to build them'
have docker-compose '
    case $* in
        "version --short") echo 1.29.2 ;;
        *config) echo "    image: storm-api:latest" ;;
        *) exit 9 ;;
    esac'
refuses 'image storm-api:latest is missing: make images' compose.sh up
refuses 'image storm-api:latest is missing: make images' compose.sh demo
refuses 'make images TAG=7' TAG=7 compose.sh up
echo "ok: $test"

test='without Nix, one line says what to install'
refuses 'nix is not installed: install it' IMAGE_BUILDER=nix images.sh
refuses 'nix is not installed: install it' nix.sh flake check
refuses 'IMAGE_BUILDER=elf: expected nix or host' IMAGE_BUILDER=elf images.sh
echo "ok: $test"
