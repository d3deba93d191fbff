#!/usr/bin/env bash
# Runs Nix with flakes enabled, whatever its configuration says.
#   nix.sh build|run|develop|flake|eval|path-info ARGS...
#   nix.sh ref      prints the reference of this folder's flake
#   nix.sh usable   fails with one line if there is no Nix that can evaluate nixpkgs
#
# Without access to nixpkgs, a stand-in beside this folder is used, as on the project's test
# machine. NIXPKGS_STANDIN names another stand-in; empty, it disables this.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

NEEDED=2.18 # lib/minver.nix of the nixpkgs in flake.lock
REMEDY="install Nix $NEEDED or newer: https://nixos.org/download (Debian 12's nix-bin is 2.8)"

case ${1:-} in
    --help | -h) show_help 'COMMAND [ARGS...]' && exit ;;
    build | run | develop | flake | eval | path-info) ;;
    ref | usable) read_arguments COMMAND "$@" ;;
    *) wrong "COMMAND: expected build, run, develop, flake, eval, path-info, ref or usable${1:+, not $1}" ;;
esac

if [[ $1 == ref ]]; then
    [[ $ROOT != *[[:space:]]* ]] || die "Nix can't build in a folder whose path contains a space: $ROOT"
    # A shallow clone must work too. Without .git, all files of the folder belong to the flake.
    if [[ -e $ROOT/.git ]]; then printf 'git+file://%s?shallow=1' "$ROOT"; else printf 'path:%s' "$ROOT"; fi
    exit
fi

command -v nix >/dev/null || die "nix is not installed: $REMEDY"
standin=$(standin)
if [[ -n $standin ]]; then
    [[ $1 != usable ]] || exit 0
    say "nixpkgs   a stand-in, made of this machine's own tools: $standin"
    # The stand-in takes the crates from cargo's cache.
    for project in shared api worker loadgen; do
        cargo fetch --quiet --locked --manifest-path "$ROOT/$project/Cargo.toml"
    done
    exec "$standin" nix "$@"
fi
version=$(nix --version) # such as `nix (Nix) 2.8.0`
is_at_least "${version##* }" "$NEEDED" || die "nix ${version##* } is too old for nixpkgs: $REMEDY"
[[ $1 != usable ]] || exit 0
exec nix --extra-experimental-features 'nix-command flakes' "$@"
