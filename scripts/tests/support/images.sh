#!/usr/bin/env bash
# Lists the contents of an image. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

# Prints every file of an image: bytes, owner and path.
#   files_of IMAGE
files_of() {
    local container
    container=$(docker create "$1" x)
    docker export "$container" | tar --list --verbose --numeric-owner | awk '{ print $3, $2, $6 }'
    docker rm --volumes "$container" >/dev/null
}

# Reads the output of files_of, and prints the paths of shells and of shell tools.
shells_among() { awk '$3 ~ /(^|\/)((ba|da|a|z|k)?sh|env)$|busybox|coreutils/ { print $3 }'; }
