#!/usr/bin/env bash
# Injects faults into a stack under load, then checks the recorded history against every promise.
# Exits with 0 only if every promise was kept. The data, the logs, the result and a report with
# plots (report.html) stay in target/chaos/SEED.
#   STORE=sqlite   the store: sqlite (one API, two workers), or postgres (two APIs, three workers, a
#                  primary and a synchronous standby, whose faults are in the mix)
#   SEED=N         the seed of the faults and of the requests [a random one, which is printed]
#   DURATION=60s   how long faults are injected
#   JOBS=20000     the number of requests in that time
#   LEASE=3s       the lease of the workers
#   KEEP=yes       keep the history also if every promise was kept
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

read_arguments '' "$@"
seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
duration=${DURATION:-60s} jobs=${JOBS:-20000} lease=${LEASE:-3s} keep=${KEEP:-}
[[ $seed =~ ^[0-9]{1,19}$ ]] || die "SEED=$seed: expected a whole number"
[[ $duration =~ ^[1-9][0-9]*(ms|s|m)$ ]] || die "DURATION=$duration: expected a duration such as 60s or 5m"
[[ $jobs =~ ^[1-9][0-9]{0,6}$ ]] || die "JOBS=$jobs: expected a whole number from 1 to 2000000"
store=${STORE:-sqlite}
[[ $store =~ ^(sqlite|postgres)$ ]] || die "STORE=$store: expected sqlite or postgres"
unset STORE SEED DURATION JOBS LEASE KEEP

# Prints the path of libfaketime's library, which steps the clock of the services; or nothing, and
# then says why.
find_faketime() {
    local said folder library
    if ! said=$("$ROOT/scripts/find-tool.sh" faketime 2>&1); then
        say "clock steps are left out: ${said##*$'\n'}"
        return
    fi
    # It may have been installed now, with lines around the path. Those are not said again.
    folder=$(readlink -f -- "$("$ROOT/scripts/find-tool.sh" faketime)")
    folder=${folder%/bin/*}
    for library in "$folder"/lib{/*,64,}/{faketime/,}libfaketimeMT.so.1; do
        [[ ! -r $library ]] || { printf '%s' "$library" && return; }
    done
    say "clock steps are left out: libfaketimeMT.so.1 is not in $folder/lib"
}

postgres=''
if [[ $store == postgres ]]; then
    need_postgres STORE=postgres
    program=$("$ROOT/scripts/find-tool.sh" postgres)
    postgres=$(dirname -- "$(readlink -f -- "${program##*$'\n'}")")
fi
need_binaries api worker loadgen
redis=$("$ROOT/scripts/find-tool.sh" redis-server)
faketime=$(find_faketime)
stack_open # starts no stack, but stops the run on Ctrl-C
folder=$ROOT/target/chaos/$seed
rm -rf "$folder"
mkdir -p "$folder"
say "data      ${folder#"$ROOT"/}, kept"
have_secret
status=0
stack_run "$STORM_BIN/storm-loadgen" chaos --bin "$STORM_BIN" --redis-server "$redis" --dir "$folder" \
    --seed "$seed" --duration "$duration" --jobs "$jobs" --lease "$lease" ${keep:+--keep} \
    ${postgres:+--postgres "$postgres"} ${faketime:+--faketime "$faketime"} \
    --html "$folder/report.html" || status=$?
[[ ! -e $folder/report.html ]] || say "report    ${folder#"$ROOT"/}/report.html"
exit "$status"
