#!/usr/bin/env bash
# Tests the flake: `nix flake check`; that a build depends on its own project and on `shared`, and
# on nothing else; that each system has the checks that can pass there; and that the image of Redis
# has no shell.
#   CHECKS='drift check-api'   build these checks only, and evaluate the others [all]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../support/test.sh"
read_arguments '' "$@"
make_work

# To standard error, because the output of some functions is captured.
fail() { die "FAILED: $*"; }

tree=$work/tree
mkdir "$tree"
git -C "$ROOT" ls-files -z | (cd -- "$ROOT" && tar --create --null --files-from -) | tar --extract --directory "$tree"

# Prints the derivation of each program.
derivations() {
    local project
    for project in api loadgen worker; do
        "$ROOT/scripts/nix.sh" eval --raw "path:$tree#packages.$system.$project.drvPath" 2>/dev/null ||
            fail "the flake does not evaluate"
        printf ' %s\n' "$project"
    done | sort
}

# An edit of FILE must change exactly the derivations of PROJECT...
#   rebuilds FILE PROJECT...
rebuilds() {
    local file=$1 after again
    shift
    cp "$tree/$file" "$work/kept"
    echo ' ' >>"$tree/$file"
    after=$(derivations)
    mv "$work/kept" "$tree/$file"
    again=$(comm -13 <(echo "$before") <(echo "$after") | awk '{ print $2 }' | sort | tr '\n' ' ')
    [[ ${again% } == "$*" ]] ||
        fail "an edit of $file rebuilds: ${again:-nothing}; expected: ${*:-nothing}"
    echo "ok: an edit of $file rebuilds: ${*:-nothing}"
}

system=$("$ROOT/scripts/nix.sh" eval --raw --expr builtins.currentSystem)

if [[ -z ${CHECKS:-} ]]; then
    "$ROOT/scripts/nix.sh" flake check --max-jobs auto --log-lines 60
else
    "$ROOT/scripts/nix.sh" flake check --no-build
    flake=$("$ROOT/scripts/nix.sh" ref)
    read -ra chosen <<<"$CHECKS"
    "$ROOT/scripts/nix.sh" build --no-link --max-jobs auto --log-lines 60 "${chosen[@]/#/$flake#checks.$system.}"
fi
echo "ok: nix flake check${CHECKS:+: $CHECKS}"

before=$(derivations)
rebuilds README.md
rebuilds docker-compose.yml
rebuilds loadgen/src/main.rs loadgen
rebuilds api/Cargo.lock api
rebuilds shared/src/config/default.toml api loadgen worker
rebuilds shared/migrations/sqlite/0002_leases.sql api loadgen worker
rebuilds .cargo/config.toml api loadgen worker

# Prints the names of a system's checks, separated by blanks. After a `+`, those that run tests.
#   checks_of SYSTEM
checks_of() {
    # shellcheck disable=SC2016 # Nix expands it
    "$ROOT/scripts/nix.sh" eval --raw "path:$tree#checks.$1" 2>/dev/null --apply '
        checks: let
            names = builtins.attrNames checks;
            commands = name: builtins.split "cargo test" (checks.${name}.buildPhase or "");
            runsTests = name: builtins.length (commands name) > 1;
        in toString (names ++ [ "+" ] ++ builtins.filter runsTests names)' ||
        fail "the checks of $1 do not evaluate"
}

# Fails if a system has other checks than CHECKS, as `checks_of` prints them.
#   has_checks SYSTEM CHECKS
has_checks() {
    local found
    found=$(checks_of "$1")
    [[ $found == "$2" ]] || fail "$1 has these checks: $found; expected: $2"
}

tests='check-api check-loadgen check-shared check-worker'
others='drift format shellcheck'
has_checks aarch64-darwin "$tests $others +"
# The stand-in for nixpkgs has no PostgreSQL.
[[ -n $(standin) ]] || with_postgres=' check-postgres'
in_order="check-api check-loadgen${with_postgres:-} check-shared check-worker"
for linux in x86_64-linux aarch64-linux; do has_checks "$linux" "$in_order $others + $in_order"; done
echo "ok: the tests, which need Linux, are checks on Linux only"

# An input that is replaced makes the folder a changed one for Nix, without a commit. So the flake
# gets the stand-in as its input, and both are committed. The stand-in's Redis needs no jemalloc, so
# it gets one like that of nixpkgs.
standin=$(standin)
if [[ -n $standin ]]; then
    cp -r "$(dirname -- "$standin")" "$work/standin"
    chmod -R u+w "$work/standin"
    cp "$ROOT/scripts/tests/support/redis.nix" "$work/standin/"
    mv "$work/standin/default.nix" "$work/standin/host.nix"
    echo '{ system }: let pkgs = import ./host.nix { inherit system; }; in pkgs // import ./redis.nix pkgs' \
        >"$work/standin/default.nix"
    sed -i "s|github:NixOS/nixpkgs/[^\"]*|path:$work/standin|" "$tree/flake.nix"
    rm "$tree/flake.lock"
    git init --quiet "$tree"
    git -C "$tree" add --all
    nix --extra-experimental-features 'nix-command flakes' flake lock --offline "git+file://$tree" 2>"$work/errors" ||
        fail "no lock file was made: $(<"$work/errors")"
    git -C "$tree" add --all
    git -C "$tree" -c user.name=test -c user.email=test@example.com commit --quiet --message=test
    commit=$(git -C "$tree" rev-parse HEAD)
    NIXPKGS_STANDIN=$work/standin/${standin##*/} "$ROOT/scripts/nix.sh" build "git+file://$tree#image-redis" \
        --out-link "$work/image-redis" 2>"$work/errors" ||
        fail "image-redis was not built: $(tail -n 20 "$work/errors")"
    mkdir "$work/layers"
    "$work/image-redis" | tar --extract --directory "$work/layers"

    files=$(for layer in "$work"/layers/*/layer.tar; do tar --list --file "$layer"; done)
    grep -q 'lib/libjemalloc.so$' <<<"$files" || fail 'image-redis has no jemalloc'
    ! grep -E '(^|/)(ba)?sh$|jemalloc\.sh$' <<<"$files" || fail 'image-redis has a shell, by its jemalloc'
    echo "ok: image-redis has no shell, although nixpkgs' jemalloc has scripts for one"
    grep -qF "\"org.opencontainers.image.revision\": \"$commit\"" "$work"/layers/*.json ||
        fail "image-redis is not labelled with its commit"
    echo "ok: an image is labelled with the commit that it is built from"
else
    echo "skipped: image-redis has no shell: make test-images checks that in the image"
fi
