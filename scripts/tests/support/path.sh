#!/usr/bin/env bash
# Makes a PATH without some of this machine's programs. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../lib.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

# Fills FOLDER with links to every program in PATH, except the PROGRAMs.
#   path_without FOLDER PROGRAM...
path_without() {
    local path=$1 folder program
    local -A missing=()
    shift
    for program; do missing[$program]=yes; done
    mkdir "$path"
    while IFS= read -rd: folder; do
        for program in "$folder"/*; do
            # The first program of a name in PATH wins: `ln` fails for the next.
            [[ -n ${missing[${program##*/}]:-} ]] || ln -s "$program" "$path/" 2>/dev/null || true
        done
    done <<<"$PATH:"
}
