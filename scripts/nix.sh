#!/usr/bin/env bash
# Runs Nix with flakes enabled, whatever its configuration says.
#   scripts/nix.sh build|run|develop|flake ARGS...
#   scripts/nix.sh ref      prints the reference of this folder's flake
#
# Without access to nixpkgs, a stand-in beside this folder is used, as on the project's test
# machine. NIXPKGS_STANDIN names another stand-in; empty, it disables this.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

if [[ ${1:-} == ref ]]; then
    [[ $ROOT != *[[:space:]]* ]] || die "Nix can't build in a folder whose path contains a space: $ROOT"
    # A shallow clone must work too. Without .git, all files of the folder belong to the flake.
    if [[ -e $ROOT/.git ]]; then printf 'git+file://%s?shallow=1' "$ROOT"; else printf 'path:%s' "$ROOT"; fi
    exit
fi

standin=${NIXPKGS_STANDIN-$ROOT/../shared/nix-standin/with-standin}

command -v nix >/dev/null || die "nix is not installed: install it (Debian: nix-bin; others: https://nixos.org/download)"
if [[ -n $standin && -x $standin ]]; then
    say "nixpkgs   a stand-in, made of this machine's own tools: $standin"
    # The stand-in takes the crates from cargo's cache.
    for project in shared api worker loadgen; do
        cargo fetch --quiet --locked --manifest-path "$ROOT/$project/Cargo.toml"
    done
    exec "$standin" nix "$@"
fi
exec nix --extra-experimental-features 'nix-command flakes' "$@"
