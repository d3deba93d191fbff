#!/usr/bin/env bash
# Tests what scripts/chaos.sh does without a stack: it finds libfaketime, and says so in one line if
# there is none. It finds the programs of the store that is asked for.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
# shellcheck source-path=SCRIPTDIR source=support/path.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/path.sh"
read_arguments '' "$@"
make_work

path_without "$work/path" faketime apt-get dnf apk pacman zypper brew sudo
mkdir "$work/bin"
for program in storm-api storm-worker redis-server; do
    printf '#!/bin/sh\n' >"$work/bin/$program"
done
# shellcheck disable=SC2016 # expanded by the program
printf '#!/bin/sh\nprintf "%%s\\n" "$@" >"%s/arguments"\n' "$work" >"$work/bin/storm-loadgen"
chmod +x "$work/bin"/*

# A seed of this test: a run's folder is named after it.
seed=$((RANDOM + 1000000))

#   chaos PATH
chaos() {
    rm -f "$work/arguments"
    PATH=$1 STORM_BIN=$work/bin REDIS_SERVER=$work/bin/redis-server SEED=$seed \
        "$ROOT/scripts/chaos.sh" >"$work/output" 2>&1 || fail "status $?"
    [[ -s $work/arguments ]] || fail 'no run was started'
}

test='without faketime, one line says that clock steps are left out and why'
chaos "$work/path"
! grep -qx -- --faketime "$work/arguments" || fail 'a library was passed'
[[ $(grep -c faketime "$work/output") == 1 ]] || fail 'not one line'
grep -q 'clock steps are left out: faketime is not installed' "$work/output" || fail 'no such line'
echo "ok: $test"

test='the run writes its report into its folder'
[[ $(grep -Fx -A 1 -- --html "$work/arguments" | tail -n 1) == "$ROOT/target/chaos/$seed/report.html" ]] ||
    fail "$(<"$work/arguments")"
echo "ok: $test"

test='the library that belongs to faketime is passed'
for folder in lib lib64 lib/x86_64-linux-gnu/faketime; do
    tool=$work/tool-${folder//\//-}
    mkdir -p "$tool/bin" "$tool/$folder" "$work/links"
    printf '#!/bin/sh\n' >"$tool/bin/faketime"
    chmod +x "$tool/bin/faketime"
    touch "$tool/$folder/libfaketimeMT.so.1"
    ln -sf "$tool/bin/faketime" "$work/links/faketime"
    chaos "$work/links:$work/path"
    [[ $(grep -Fx -A 1 -- --faketime "$work/arguments" | tail -n 1) == "$(readlink -f "$tool")/$folder/libfaketimeMT.so.1" ]] ||
        fail "$folder: $(<"$work/arguments")"
done
echo "ok: $test"

test='faketime without its library is one line too'
rm "$tool/$folder/libfaketimeMT.so.1"
chaos "$work/links:$work/path"
! grep -qx -- --faketime "$work/arguments" || fail 'a library was passed'
grep -q 'clock steps are left out: libfaketimeMT.so.1 is not in ' "$work/output" || fail 'no such line'
echo "ok: $test"

test='the run that installs faketime passes its library'
mkdir -p "$work/manager" "$work/installed/bin" "$work/installed/lib"
touch "$work/installed/lib/libfaketimeMT.so.1"
printf '#!/bin/sh\n%s\n' "echo installing; printf '#!/bin/sh\n' >'$work/installed/bin/faketime'" \
    "chmod +x '$work/installed/bin/faketime'" >"$work/manager/dnf"
# shellcheck disable=SC2016 # expanded by the program
printf '#!/bin/sh\nshift\nexec "$@"\n' >"$work/manager/sudo"
chmod +x "$work/manager"/*
for run in first second; do
    chaos "$work/manager:$work/installed/bin:$work/path"
    [[ $(grep -Fx -A 1 -- --faketime "$work/arguments" | tail -n 1) == "$(readlink -f "$work/installed")/lib/libfaketimeMT.so.1" ]] ||
        fail "the $run run: $(<"$work/output")"
done
echo "ok: $test"

test='a store that there is not is refused in one line'
if errors=$(STORE=mysql STORM_BIN=$work/bin "$ROOT/scripts/chaos.sh" 2>&1); then fail 'it ran'; fi
[[ $errors == 'chaos.sh: STORE=mysql: expected sqlite or postgres' ]] || fail "$errors"
echo "ok: $test"

test='the folder of the programs of PostgreSQL is passed for that store only'
mkdir -p "$work/server"
printf '#!/bin/sh\n' >"$work/server/postgres"
chmod +x "$work/server/postgres"
chaos "$work/server:$work/path"
! grep -qx -- --postgres "$work/arguments" || fail 'it was passed'
STORE=postgres chaos "$work/server:$work/path"
[[ $(grep -Fx -A 1 -- --postgres "$work/arguments" | tail -n 1) == "$(readlink -f "$work/server")" ]] ||
    fail "$(<"$work/arguments")"
echo "ok: $test"
