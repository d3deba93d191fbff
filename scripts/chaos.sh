#!/usr/bin/env bash
# A storm on a stack of its own while everything is broken that can break, and a judgement of what was seen.
# Its status is 0 only if every promise was kept. The data, logs and result stay in target/chaos/SEED.
#   SEED=N         what is broken when, and what is asked for [a random one, which is printed]
#   DURATION=60s   how long things are broken
#   JOBS=20000     requests that fall due in that time
#   LEASE=3s       the workers' lease
#   KEEP=yes       the history is kept also when every promise was
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
duration=${DURATION:-60s} jobs=${JOBS:-20000} lease=${LEASE:-3s} keep=${KEEP:-}
[[ $seed =~ ^[0-9]{1,19}$ ]] || die "SEED=$seed: expected a whole number"
[[ $duration =~ ^[1-9][0-9]*(ms|s|m)$ ]] || die "DURATION=$duration: expected a duration such as 60s or 5m"
[[ $jobs =~ ^[1-9][0-9]{0,6}$ ]] || die "JOBS=$jobs: expected a whole number from 1 to 2000000"
unset SEED DURATION JOBS LEASE KEEP

need_binaries api worker loadgen
redis=$("$ROOT/scripts/find-tool.sh" redis-server)
stack_open # no stack of ours, but what ends the run on Ctrl-C
folder=$ROOT/target/chaos/$seed
rm -rf "$folder"
say "data      ${folder#"$ROOT"/}, kept"
have_secret
stack_run "$STORM_BIN/storm-loadgen" chaos --bin "$STORM_BIN" --redis-server "$redis" --dir "$folder" \
    --seed "$seed" --duration "$duration" --jobs "$jobs" --lease "$lease" ${keep:+--keep}
