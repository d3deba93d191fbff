#!/usr/bin/env bash
# A PATH in which programs are missing that this machine has. Sourced, never run.
set -euo pipefail

# Fills FOLDER with a link to every program in PATH but those named.
#   path_without FOLDER PROGRAM...
path_without() {
    local path=$1 folder program
    local -A missing=()
    shift
    for program; do missing[$program]=yes; done
    mkdir "$path"
    while IFS= read -rd: folder; do
        for program in "$folder"/*; do
            # The first in PATH wins.
            [[ -n ${missing[${program##*/}]:-} ]] || ln -s "$program" "$path/" 2>/dev/null || true
        done
    done <<<"$PATH:"
}
