#!/usr/bin/env bash
# What is in an image. Sourced, never run.
set -euo pipefail

# Prints every file: bytes, owner and path.
#   files_of IMAGE
files_of() {
    local container
    container=$(docker create "$1" x)
    docker export "$container" | tar --list --verbose --numeric-owner | awk '{ print $3, $2, $6 }'
    docker rm --volumes "$container" >/dev/null
}

# Prints those of the files that it reads which are a shell, or what one would do with it.
shells_among() { awk '$3 ~ /(^|\/)((ba|da|a|z|k)?sh|env)$|busybox|coreutils/ { print $3 }'; }
