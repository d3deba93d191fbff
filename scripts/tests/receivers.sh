#!/usr/bin/env bash
# The promise of docs/RECEIVERS.md: each of its receivers takes a callback that a worker signed, once, and no other.
# A receiver whose toolchain is not here is left out, with a line that says so.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd -- "$ROOT"

mkdir -p target
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
receiver=''
stop() {
    [[ -z $receiver ]] || { kill -- "-$receiver" && wait "$receiver"; } 2>/dev/null || true
    receiver=''
}
trap 'stop; rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $name: $1; it said:"
    cat "$work/said" "$work/errors"
    exit 1
}

new_secret() { printf 'whsec_%s' "$(head -c 32 /dev/urandom | base64)"; }

# An ed25519 seed, and the public key that belongs to it.
PRIVATE=whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=
PUBLIC=whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=
OLD=$(new_secret) NEW=$(new_secret)

# Starts a receiver with those keys, and waits until it says where it listens.
#   start KEYS COMMAND...
start() {
    local keys=$1 try
    shift
    stop
    rm -rf "$work/inbox"
    : >"$work/said"
    set -m
    WEBHOOK_SECRETS=$keys PORT=0 INBOX=$work/inbox PYTHONPATH=${LIBRARY:-} "$@" >"$work/said" 2>"$work/errors" </dev/null &
    receiver=$!
    set +m
    for try in {1..1200}; do
        url=$(sed -n 's/^listening at //p' "$work/said")
        [[ -z $url ]] || return 0
        kill -0 "$receiver" 2>/dev/null || fail 'it ended'
        sleep 0.05
    done
    fail "it did not listen in $((try / 20)) seconds"
}

# Sends a callback that those secrets sign; it must be answered with STATUS.
#   answers STATUS SECRETS CASE [ID]
answers() {
    local status
    status=$(CALLBACK_SIGNING_SECRETS=$2 "$work/send_callback" "$url" "${@:3}") || fail "$3 could not be sent"
    [[ $status == "$1" ]] || fail "$3 was answered with $status, and not with $1"
}

#   lines WORD    how many lines begin so
lines() { grep -c "^$1" "$work/said" || true; }

# The whole story of a receiver with HMAC secrets.
#   check COMMAND...
check() {
    local id=019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53 case
    start "$NEW" "$@"
    answers 204 "$NEW" good "$id"
    answers 204 "$NEW" good "$id"
    answers 204 "$NEW" good
    for case in stale early forged unsigned tampered; do answers 401 "$NEW" "$case"; done
    answers 401 "$OLD" good
    # As while secrets are replaced, by either side first.
    answers 204 "$OLD $NEW" good
    answers 204 "$PRIVATE $NEW $OLD" good
    [[ $(lines accepted) == 4 && $(lines repeated) == 1 && $(lines refused) == 6 ]] || fail 'that is not how it was'
    start "$OLD $NEW" "$@"
    answers 204 "$OLD" good
    answers 204 "$NEW" good
    stop
    echo "ok: $name"
}

# And of its inbox.
check_inbox() {
    local kept
    start "$NEW" "$@"
    answers 204 "$NEW" good 019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53
    kept=$(find "$work/inbox" -type f)
    [[ $kept == "$work/inbox/019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53.json" ]] || fail "it kept: $kept"
    [[ $(<"$kept") == '{"request_id":"0","status":"completed","records":10}' ]] || fail "it kept: $(<"$kept")"
    stop
}

# And of one that knows ed25519.
check_ed25519() {
    start "$PUBLIC" "$@"
    answers 204 "$PRIVATE" good
    answers 204 "$NEW $PRIVATE" good
    answers 401 "$PRIVATE" tampered
    answers 401 "$PRIVATE" stale
    answers 401 "$NEW" good
    stop
    echo "ok: $name, ed25519"
}

left_out() { echo "left out: $name, for $1"; }

# --- The page ------------------------------------------------------------------------------------

name='docs/RECEIVERS.md quotes the programs as they are'
: >"$work/said"
: >"$work/errors"
quotes=0
while IFS=$'\t' read -r file quote; do
    quotes=$((quotes + 1))
    quote=$(printf '%b' "$quote")
    [[ $(<"$file") == *"$quote"* ]] || fail "$file does not have what is quoted of it"
done < <(awk '
    /^<!-- from [^ ]+ -->$/ { file = $3; next }
    file != "" && /^```[a-z]+$/ { inside = 1; text = ""; next }
    inside && /^```$/ { print file "\t" text; inside = 0; file = ""; next }
    inside { gsub(/\\/, "\\\\"); text = text (text == "" ? "" : "\\n") $0 }
' docs/RECEIVERS.md)
((quotes >= 4)) || fail "it quotes $quotes programs"
echo "ok: $name"

# --- The receivers -------------------------------------------------------------------------------

cargo build --quiet --locked --manifest-path worker/Cargo.toml --examples --target-dir target
for example in send_callback receiver; do cp "target/debug/examples/$example" "$work/"; done

name='the receiver in Rust'
check "$work/receiver"
check_inbox "$work/receiver"
check_ed25519 "$work/receiver"

name='the receiver in Python'
python=''
# A name in PATH may be of a manager of versions that has none.
for candidate in python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
        python=$("$candidate" -c 'import sys; print(sys.executable)') && break
    fi
done
if [[ -n $python ]]; then
    check "$python" docs/receivers/receiver.py
    check_inbox "$python" docs/receivers/receiver.py
else
    left_out 'there is no Python 3.8 here'
fi

name='the receiver in Node'
if node -e 'process.exit(process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then
    check node docs/receivers/receiver.mjs
    check_inbox node docs/receivers/receiver.mjs
    check_ed25519 node docs/receivers/receiver.mjs
else
    left_out 'there is no Node 18 here'
fi

name='the receiver in Go'
if command -v go >/dev/null; then
    if GOFLAGS='' GOCACHE=$ROOT/target/go-cache go build -o "$work/receiver-go" docs/receivers/receiver.go 2>"$work/errors"; then
        check "$work/receiver-go"
        check_inbox "$work/receiver-go"
        check_ed25519 "$work/receiver-go"
    else
        fail 'it does not build'
    fi
else
    left_out 'there is no Go here'
fi

name="PyPI's standardwebhooks"
LIBRARY=$ROOT/target/standardwebhooks
if [[ -z $python ]]; then
    left_out 'there is no Python 3.8 here'
elif [[ -d $LIBRARY/standardwebhooks ]] ||
    "$python" -m pip install --quiet --disable-pip-version-check --target "$LIBRARY" standardwebhooks 2>"$work/errors"; then
    check "$python" scripts/tests/support/receiver_by_library.py
else
    left_out "pip could not install it: $(tail -n 1 "$work/errors")"
fi
