#!/usr/bin/env bash
# Tests the receivers of docs/RECEIVERS.md: each accepts a callback that a worker signed, once, and
# refuses every other one. A receiver without its toolchain on this machine is skipped, and a line
# says so.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work
cd -- "$ROOT"

receiver=''
stop() {
    [[ -z $receiver ]] || { kill -- "-$receiver" && wait "$receiver"; } 2>/dev/null || true
    receiver=''
}
clean_up() { stop; }

# An ed25519 seed and its public key.
PRIVATE=whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=
PUBLIC=whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=
OLD=$(new_secret) NEW=$(new_secret)

# Starts a receiver with KEYS, and waits until it prints its URL.
#   start KEYS COMMAND...
start() {
    local keys=$1 try
    shift
    stop
    rm -rf "$work/inbox"
    : >"$work/output"
    set -m
    WEBHOOK_SECRETS=$keys PORT=0 INBOX=$work/inbox PYTHONPATH=${LIBRARY:-} "$@" \
        >"$work/output" 2>&1 </dev/null &
    receiver=$!
    set +m
    for try in {1..1200}; do
        url=$(sed -n 's/^listening at //p' "$work/output")
        [[ -z $url ]] || return 0
        kill -0 "$receiver" 2>/dev/null || fail 'it exited'
        sleep 0.05
    done
    fail "it did not listen in $((try / 20)) seconds"
}

# Sends a callback that SECRETS sign. The receiver must answer with STATUS.
#   answers STATUS SECRETS CASE [ID]
answers() {
    local status
    status=$(CALLBACK_SIGNING_SECRETS=$2 "$work/send_callback" "$url" "${@:3}") || fail "$3 could not be sent"
    [[ $status == "$1" ]] || fail "the answer to $3 was $status, expected $1"
}

# Prints the number of output lines that begin with WORD.
#   lines WORD
lines() { grep -c "^$1" "$work/output" || true; }

# Tests a receiver with HMAC secrets.
#   check COMMAND...
check() {
    local id=019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53 case
    start "$NEW" "$@"
    answers 204 "$NEW" good "$id"
    answers 204 "$NEW" good "$id"
    answers 204 "$NEW" good
    for case in stale early forged unsigned tampered; do answers 401 "$NEW" "$case"; done
    answers 401 "$OLD" good
    # While a secret is being replaced, either side may have the new one first.
    answers 204 "$OLD $NEW" good
    answers 204 "$PRIVATE $NEW $OLD" good
    [[ $(lines accepted) == 4 && $(lines repeated) == 1 && $(lines refused) == 6 ]] ||
        fail 'expected 4 accepted, 1 repeated, 6 refused'
    start "$OLD $NEW" "$@"
    answers 204 "$OLD" good
    answers 204 "$NEW" good
    stop
    echo "ok: $test"
}

# Tests the receiver's inbox.
check_inbox() {
    local kept
    start "$NEW" "$@"
    answers 204 "$NEW" good 019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53
    kept=$(find "$work/inbox" -type f)
    [[ $kept == "$work/inbox/019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53.json" ]] || fail "it kept: $kept"
    [[ $(<"$kept") == '{"request_id":"0","status":"completed","records":10}' ]] || fail "it kept: $(<"$kept")"
    stop
}

# Tests a receiver that supports ed25519.
check_ed25519() {
    start "$PUBLIC" "$@"
    answers 204 "$PRIVATE" good
    answers 204 "$NEW $PRIVATE" good
    answers 401 "$PRIVATE" tampered
    answers 401 "$PRIVATE" stale
    answers 401 "$NEW" good
    stop
    echo "ok: $test, ed25519"
}

skipped() { echo "skipped: $test, because $1"; }

# --- The receivers -------------------------------------------------------------------------------

need_cargo
cargo build --quiet --locked --manifest-path worker/Cargo.toml --examples --target-dir target
for example in send_callback receiver; do cp "target/debug/examples/$example" "$work/"; done

test='the receiver in Rust'
check "$work/receiver"
check_inbox "$work/receiver"
check_ed25519 "$work/receiver"

test='the receiver in Python'
python=''
# python3 in PATH may be the shim of a version manager without an installed version.
for candidate in python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        python=$("$candidate" -c 'import sys; print(sys.executable)') && break
    fi
done
if [[ -n $python ]]; then
    check "$python" docs/receivers/receiver.py
    check_inbox "$python" docs/receivers/receiver.py
else
    skipped 'Python 3.8 is not installed'
fi

test='the receiver in Node'
if node -e 'process.exit(process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then
    check node docs/receivers/receiver.mjs
    check_inbox node docs/receivers/receiver.mjs
    check_ed25519 node docs/receivers/receiver.mjs
else
    skipped 'Node 18 is not installed'
fi

test='the receiver in Go'
if command -v go >/dev/null; then
    if GOFLAGS='' GOCACHE=$ROOT/target/go-cache \
        go build -o "$work/receiver-go" docs/receivers/receiver.go >"$work/output" 2>&1; then
        check "$work/receiver-go"
        check_inbox "$work/receiver-go"
        check_ed25519 "$work/receiver-go"
    else
        fail 'the build failed'
    fi
else
    skipped 'Go is not installed'
fi

test="PyPI's standardwebhooks"
LIBRARY=$ROOT/target/standardwebhooks
if [[ -z $python ]]; then
    skipped 'Python 3.8 is not installed'
elif [[ -d $LIBRARY/standardwebhooks ]] ||
    "$python" -m pip install --quiet --disable-pip-version-check --target "$LIBRARY" standardwebhooks 2>"$work/output"; then
    check "$python" scripts/tests/support/receiver_by_library.py
else
    skipped "pip could not install it: $(tail -n 1 "$work/output")"
fi
