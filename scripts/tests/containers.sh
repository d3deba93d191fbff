#!/usr/bin/env bash
# Tests images.sh, compose.sh and nix.sh without the tools that they need: each fails with one line
# that says what to do. cargo, docker, docker-compose and nix are stubs; scripts/tests/packaging/
# uses the real ones.
# shellcheck disable=SC2016 # the stubs expand their own text
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/path.sh"
# shellcheck source-path=SCRIPTDIR source=support/listener.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/listener.sh"
read_arguments '' "$@"
make_work
clean_up() { [[ -z ${LISTENER:-} ]] || stop_listening; }
path_without "$work/path" cargo docker docker-compose nix

# Puts a stub in the PATH.
#   have NAME BODY
have() {
    printf '#!/usr/bin/env bash\n%s\n' "$2" >"$work/path/$1"
    chmod +x "$work/path/$1"
}

# Runs a script of the project, which must fail with one line that contains TEXT.
#   refuses TEXT [VARIABLE=VALUE]... SCRIPT [ARGUMENT...]
refuses() {
    local text=$1 output assignments=() status=0
    shift
    while [[ $1 == *=* ]]; do assignments+=("$1") && shift; done
    output=$(clean "${assignments[@]}" "$ROOT/scripts/$1" "${@:2}" 2>&1) || status=$?
    ((status == 1)) || fail "$1 exited with $status: $output"
    output=$(grep -vE '^(compose|images|nixpkgs)   ' <<<"$output") # which tool was chosen
    [[ $output == *"$text"* && $output != *$'\n'* ]] || fail "$1 printed: $output"
}

# Runs a command with the stubs, and without settings of this shell.
clean() {
    env -u COMPOSE -u DOCKER_HOST -u IMAGE_BUILDER -u TAG -u STORM_BIN PATH="$work/path" NIXPKGS_STANDIN='' "$@"
}

test='without Docker, one line says what to install'
refuses 'install Docker Engine' compose.sh up
refuses 'install Docker Engine' images.sh
refuses 'install Docker Engine' IMAGE_BUILDER=host images.sh
echo "ok: $test"

test='without a running engine, one line says what to do'
have docker 'echo "Cannot connect to the Docker daemon." >&2; exit 1'
refuses 'no Docker engine answers: start it' compose.sh up
refuses 'docker says: Cannot connect' images.sh
echo "ok: $test"

test='without Docker Compose, one line says what to install'
have docker '[[ $1 == version ]]' # an engine without our images
refuses 'Docker Compose is not installed: install it' compose.sh up
refuses 'no-such-thing does not run: correct or unset COMPOSE' COMPOSE=no-such-thing compose.sh up
echo "ok: $test"

test='without the images, one line says how to build them'
have docker-compose '
    case $* in
        "version --short") echo 1.29.2 ;;
        *config) echo "    image: storm-api:latest" ;;
        *) exit 9 ;;
    esac'
refuses 'image storm-api:latest is missing: make images' compose.sh up
refuses 'image storm-api:latest is missing: make images' compose.sh demo
refuses 'make images TAG=7' TAG=7 compose.sh up
echo "ok: $test"

# Each line that docker-compose gets is recorded, so that a test sees what was started.
test='a taken port at make up is one sentence that names port and setting, and nothing is started'
port=$(free_port 20000)
listen_on "$port"
have docker 'case $1 in version | image) ;; *) exit 9 ;; esac'
for config in "    - 127.0.0.1:$port:8000/tcp" "        published: \"$port\""; do
    : >"$work/asked"
    have docker-compose "
        echo \"\$*\" >>'$work/asked'
        case \$* in
            'version --short') echo 2.40.3 ;;
            *config) echo '    image: storm-api:latest' && echo '$config' ;;
        esac"
    refuses "port $port is taken by another program: choose another: make up API_PORT=$((port + 1))" compose.sh up
    ! grep -q '^up' "$work/asked" || fail "it started: $(<"$work/asked")"
done
stop_listening
echo "ok: $test"

test='a stack that does not start leaves nothing running'
: >"$work/asked"
have docker-compose "
    echo \"\$*\" >>'$work/asked'
    case \$* in
        'version --short') echo 2.40.3 ;;
        *config) echo '    image: storm-api:latest' ;;
        up*) exit 1 ;;
    esac"
refuses 'the stack could not be started, and nothing of it is left running' compose.sh up
[[ $(tail -n 1 "$work/asked") == 'down --remove-orphans' ]] || fail "it asked for: $(<"$work/asked")"
echo "ok: $test"

test='an unwritable /data names the uid that needs it, and the command to fix it'
mkdir -p "$work/archive/data"
tar --create --file "$work/data.tar" --directory "$work/archive" --owner=0 --group=0 --mode=755 data
have docker '
    case $* in
        compose*) exit 9 ;;
        *State.Running*) ;;
        *Config.User*) echo 65532:65532 ;;
        *Mounts*) echo /srv/storm ;;
        *Name*) echo storm_redis_1 ;;
        cp*) cat "'"$work"'/data.tar" ;;
    esac'
have docker-compose '
    case $* in
        "version --short") echo 2.40.3 ;;
        *config) echo "    image: storm-api:latest" ;;
        "ps --quiet redis") echo 1234 ;;
    esac'
refuses "/data of storm_redis_1 belongs to uid 0, and uid 65532 can't write to it: sudo chown -R 65532:65532 '/srv/storm'" compose.sh up
echo "ok: $test"

test='make logs in a pipe has no colour codes'
have docker-compose "echo \"\$*\" >>'$work/asked'"
output=$(clean make -C "$ROOT" logs 2>&1) || fail "$output"
grep -qx 'logs --follow --tail=100 --no-color' "$work/asked" || fail "it asked for: $(<"$work/asked")"
echo "ok: $test"

test='without Nix, one line says what to install'
refuses 'nix is not installed: install Nix' IMAGE_BUILDER=nix images.sh
refuses 'nix is not installed: install Nix' nix.sh flake check
refuses 'IMAGE_BUILDER=elf: expected nix or host' IMAGE_BUILDER=elf images.sh
echo "ok: $test"

test='an old Nix is one line that says what to install'
have nix '[[ $1 == --version ]] && echo "nix (Nix) 2.8.0"'
refuses 'nix 2.8.0 is too old for nixpkgs: install Nix 2.18' IMAGE_BUILDER=nix images.sh
refuses 'nix 2.8.0 is too old for nixpkgs: install Nix 2.18' nix.sh flake check
echo "ok: $test"

# The build ends for want of cargo.
test='make images without a usable Nix takes the host builder, and says so and why'
for version in 'nix (Nix) 2.8.0' 'nix (Nix) 2.17.1'; do
    have nix "[[ \$1 == --version ]] && echo '$version'"
    output=$(clean make -C "$ROOT" images 2>&1) && fail "it built without cargo: $output"
    [[ $output == *"built with cargo and Docker, because nix ${version##* } is too old for nixpkgs: install"*$'\n'*'cargo is not installed'* ]] ||
        fail "$output"
done
rm "$work/path/nix"
output=$(clean make -C "$ROOT" images 2>&1) && fail "it built without cargo: $output"
[[ $output == *'built with cargo and Docker, because nix is not installed: '* ]] || fail "$output"
echo "ok: $test"

test='every Nix that is new enough is taken, by whatever name and version'
for version in 'nix (Nix) 2.18.0' 'nix (Nix) 2.19pre20230921_44e6a3f' 'nix (Lix, like Nix) 2.93.3' \
    'nix (Determinate Nix 3.6.2) 2.29.0' 'nix (Nix) 3.0.1'; do
    have nix "if [[ \$1 == --version ]]; then echo '$version'; else echo \"asked for \$*\" && exit 1; fi"
    output=$(clean "$ROOT/scripts/images.sh" 2>&1) && fail "it built without Nix: $output"
    [[ $output == *'built with Nix'*'asked for '*'#load-images'* ]] || fail "$version: $output"
done
echo "ok: $test"
