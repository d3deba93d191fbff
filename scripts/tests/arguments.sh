#!/usr/bin/env bash
# Tests what every script of this project does before it starts anything: --help helps, an argument
# that it does not take is one sentence, and so are a bash or a cargo that is too old or missing,
# and a REDIS_URL where no Redis answers.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/path.sh"
read_arguments '' "$@"
make_work

# What a script must not start before it has read its arguments. Each only records its name.
starters=(apt-get brew cargo chmod cp curl docker docker-compose dockerd fakeroot git install kill
    make mkdir mktemp mv nix node pip python python3 redis-cli redis-server rm rustup shellcheck sudo
    systemctl tar tee touch valkey-server wrk)
path_without "$work/path" "${starters[@]}"
for program in "${starters[@]}"; do
    printf '#!/bin/sh\necho "%s $*" >>"%s/started"\nexit 1\n' "$program" "$work" >"$work/path/$program"
    chmod +x "$work/path/$program"
done

mapfile -t scripts < <(cd -- "$ROOT" && find .ci/run scripts -name '*.sh' -o -path .ci/run | sort)
((${#scripts[@]} > 25)) || { test='all scripts are found' && fail "only ${#scripts[@]}"; }

# Runs a script, also one that is only sourced otherwise. Sets status and output, and errors.
#   run SCRIPT ARGUMENT...
run() {
    status=0
    rm -f "$work/started"
    output=$(PATH=$work/path bash "$ROOT/$1" "${@:2}" 2>"$work/errors" </dev/null) || status=$?
    errors=$(<"$work/errors")
    [[ ! -e $work/started ]] || fail "$* started: $(<"$work/started")"
}

test='--help and -h help, and start nothing, in every script'
for script in "${scripts[@]}"; do
    for option in --help -h; do
        run "$script" "$option"
        [[ $status == 0 && -z $errors && $output == usage:*"${script##*/}"*$'\n'*[a-z.]* ]] ||
            fail "$script $option: status $status: $output$errors"
    done
done
echo "ok: $test"

test='help is found behind another argument too'
for script in scripts/demo.sh scripts/bench.sh scripts/storm.sh scripts/find-tool.sh; do
    run "$script" 10 --help
    [[ $status == 0 && $output == usage:* ]] || fail "$script: status $status: $output$errors"
done
echo "ok: $test"

test='an argument that a script does not take is one sentence and exit status 2'
for script in "${scripts[@]}"; do
    for argument in --nonsense nonsense; do
        run "$script" "$argument"
        [[ $status == 2 && -z $output && $errors != *$'\n'* && $errors == "${script##*/}: "*' --help' ]] ||
            fail "$script $argument: status $status: $output$errors"
    done
done
echo "ok: $test"

# Copies of the scripts that read the version of bash from variables that can be set.
test='an old bash is one sentence in every script, before anything that it could not read'
mkdir "$work/old"
cp -r "$ROOT/scripts" "$ROOT/.ci" "$work/old/"
find "$work/old" -type f -exec sed -i 's/\<BASH_VERS/OLD_VERS/g' {} +
for version in 3.2.57 4.3.48; do
    echo "OLD_VERSION='$version(1)-release' OLD_VERSINFO=(${version//./ })" >"$work/environment"
    for script in "${scripts[@]}"; do
        status=0
        errors=$(BASH_ENV=$work/environment bash "$work/old/$script" 2>&1 </dev/null) || status=$?
        [[ $status == 1 && $errors == "${script##*/}: bash $version"*': install bash 4.4 or newer'* && $errors != *$'\n'* ]] ||
            fail "$script: status $status: $errors"
    done
done
echo "ok: $test"

# Runs COMMAND in PATH, which must fail with one line that contains TEXT. make adds lines of its
# own.
#   refuses TEXT COMMAND...
refuses() {
    local text=$1 status=0
    shift
    errors=$(env -u STORM_BIN -u REDIS_SERVER -u REDIS_URL PATH="$work/path" "$@" 2>&1 </dev/null) || status=$?
    errors=$(grep -v '^make' <<<"$errors")
    [[ $status != 0 && $errors == *"$text"* && $errors != *$'\n'* ]] || fail "$*: status $status: $errors"
}

# The commands that build.
builders=("$ROOT/scripts/demo.sh" "$ROOT/scripts/stack.sh run" "$ROOT/scripts/storm.sh"
    "$ROOT/scripts/chaos.sh" "$ROOT/scripts/bench.sh" "$ROOT/scripts/deny.sh"
    "make -C $ROOT test-shared" "make -C $ROOT lint-clippy" "make -C $ROOT fmt" "make -C $ROOT fuzz")
for program in mkdir mktemp rm make; do ln -sf "$(type -P "$program")" "$work/path/$program"; done

test='without cargo, one line says what to install'
rm "$work/path/cargo"
export API_ADDR WORKER_ADDR CALLBACK_PORT
API_ADDR=127.0.0.1:$(free_port 20000) WORKER_ADDR=127.0.0.1:$(free_port 24000) CALLBACK_PORT=$(free_port 12000)
for command in "${builders[@]}"; do
    read -ra words <<<"$command"
    refuses 'cargo is not installed: install Rust' "${words[@]}"
done
echo "ok: $test"

test='an old cargo, and one that does not run, are one line too'
printf '#!/bin/sh\necho "cargo 1.63.0 (fd9c4297c 2022-07-01)"\n' >"$work/path/cargo"
chmod +x "$work/path/cargo"
refuses 'cargo 1.63.0 is too old: install Rust' "$ROOT/scripts/demo.sh"
printf '#!/bin/sh\necho "error: no default toolchain is configured" >&2\nexit 1\n' >"$work/path/cargo"
refuses 'cargo does not run (error: no default toolchain is configured): install Rust' "$ROOT/scripts/demo.sh"
echo "ok: $test"

test='without a C compiler, one line says what to install'
printf '#!/bin/sh\necho "cargo 1.999.0"\n' >"$work/path/cargo"
rm "$work/path/cc"
refuses 'there is no C compiler cc: install one' "$ROOT/scripts/demo.sh"
echo "ok: $test"

# Before a build too, which may take minutes: there is still no C compiler.
test='a dead REDIS_URL is named at once by every script that uses it'
dead=127.0.0.1:$(free_port 28000)
for command in 'demo.sh' 'storm.sh' 'stack.sh run' 'stack.sh with true' 'dev.sh'; do
    read -ra words <<<"$command"
    refuses "no Redis answers at $dead" env REDIS_URL="redis://user:secret@$dead/0" "$ROOT/scripts/${words[0]}" "${words[@]:1}"
    [[ $errors == *"REDIS_URL=redis://***@$dead/0"*'REDIS_URL=none'* ]] || fail "$command: $errors"
done
for url in "redis://localhost.invalid" "rediss://$dead" "redis://[::1]:${dead##*:}"; do
    refuses 'no Redis answers at ' env REDIS_URL="$url" "$ROOT/scripts/demo.sh"
done
echo "ok: $test"


test='a WITH_POSTGRES that is neither yes nor no is named at once by every script that builds or tests'
for command in demo.sh storm.sh 'stack.sh run' chaos.sh dev.sh images.sh tests/packaging/compose.sh; do
    read -ra words <<<"$command"
    for value in true 1 YES 'yes '; do
        refuses "WITH_POSTGRES=$value: expected yes or no" \
            env REDIS_URL=none WITH_POSTGRES="$value" "$ROOT/scripts/${words[0]}" "${words[@]:1}"
    done
done
for store in STORE=postgres DB_URL=postgres://storm@127.0.0.1/storm; do
    refuses "WITH_POSTGRES=no: ${store/DB_URL=*/this DB_URL} needs WITH_POSTGRES=yes" \
        env REDIS_URL=none WITH_POSTGRES=no "$store" "$ROOT/scripts/storm.sh"
done
echo "ok: $test"

test='programs are built with PostgreSQL if WITH_POSTGRES is yes, and without it if it is no or empty'
# shellcheck disable=SC2016 # expanded by the program
printf '#!/bin/sh\n[ "$1" = build ] || exec echo "cargo 1.999.0"\necho "$*" >>"%s/built"\n' "$work" >"$work/path/cargo"
printf '#!/bin/sh\n' >"$work/path/cc"
chmod +x "$work/path/cc"
for value in yes no ''; do
    rm -f "$work/built"
    # shellcheck disable=SC2016 # expanded by the shell that is started
    env PATH="$work/path" WITH_POSTGRES="$value" bash -c 'source "$1" && build dev api shared' - \
        "$ROOT/scripts/lib.sh" 2>"$work/output" || fail "$value"
    expected=1
    [[ $value == yes ]] || expected=0
    [[ $(grep -c -- '--manifest-path api/Cargo.toml.*--features postgres$' "$work/built") == "$expected" ]] ||
        fail "WITH_POSTGRES=$value: $(<"$work/built")"
done
echo "ok: $test"

test='programs are built with traces if WITH_TRACES is yes, beside PostgreSQL or alone'
for value in yes no ''; do
    rm -f "$work/built"
    # shellcheck disable=SC2016 # expanded by the shell that is started
    env PATH="$work/path" WITH_TRACES=yes WITH_POSTGRES="$value" bash -c \
        'source "$1" && build dev api worker loadgen' - "$ROOT/scripts/lib.sh" 2>"$work/output" || fail "$value"
    expected='--features traces'
    [[ $value != yes ]] || expected='--features postgres,traces'
    [[ $(grep -cE -- "--manifest-path (api|worker)/Cargo.toml $expected\$" "$work/built") == 2 ]] ||
        fail "WITH_POSTGRES=$value: $(<"$work/built")"
    ! grep -q 'loadgen.*traces' "$work/built" || fail "loadgen: $(<"$work/built")"
done
echo "ok: $test"
