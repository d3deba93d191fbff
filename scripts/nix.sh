#!/usr/bin/env bash
# Nix with flakes, whatever its configuration says of them.
#   scripts/nix.sh build|run|develop|flake ARGS...
#   scripts/nix.sh ref      prints the reference of this folder's flake
#
# Where nixpkgs can't be had, a stand-in for it may lie beside this folder, as it does where the project is
# tested: it is used then, and says so. NIXPKGS_STANDIN names another, or none if it is empty.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

if [[ ${1:-} == ref ]]; then
    [[ $ROOT != *[[:space:]]* ]] || die "Nix can't build in a folder whose path has a space in it: $ROOT"
    # A clone without its history is as good; where there is no clone, everything in the folder counts.
    if [[ -e $ROOT/.git ]]; then printf 'git+file://%s?shallow=1' "$ROOT"; else printf 'path:%s' "$ROOT"; fi
    exit
fi

standin=${NIXPKGS_STANDIN-$ROOT/../shared/nix-standin/with-standin}

command -v nix >/dev/null || die "there is no nix here: install it (Debian: nix-bin; others: https://nixos.org/download)"
if [[ -n $standin && -x $standin ]]; then
    say "nixpkgs   a stand-in, made of this machine's own tools: $standin"
    # The crates come from cargo's own cache.
    for project in shared api worker loadgen; do cargo fetch --quiet --locked --manifest-path "$ROOT/$project/Cargo.toml"; done
    exec "$standin" nix "$@"
fi
exec nix --extra-experimental-features 'nix-command flakes' "$@"
