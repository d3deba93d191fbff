#!/usr/bin/env bash
# The promise of deny.sh: what deny.toml refuses fails it, and an advisory too, where their database can be had.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)

mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/test.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $test: $*"
    exit 1
}

# A stand-in that tells what it was asked, and ends as it is told.
cat >"$work/cargo-deny" <<'TOOL'
#!/usr/bin/env bash
echo "$*" >>"$ASKED"
case " $* " in
    *' fetch db '*) exit "$FETCHED" ;;
    *" $REFUSED "*) echo "error[$REFUSED]: refused" >&2 && exit 1 ;;
esac
TOOL
chmod +x "$work/cargo-deny"
export PATH=$work:$PATH ASKED=$work/asked

# Sets said, status and asked.
#   deny FETCHED REFUSED
deny() {
    status=0
    : >"$ASKED"
    said=$(FETCHED=$1 REFUSED=$2 "$ROOT/scripts/deny.sh" 2>&1) || status=$?
    asked=$(<"$ASKED")
}

test='every project is checked, and advisories with the rest where their database can be had'
deny 0 nothing
((status == 0)) || fail "its status is $status: $said"
for project in shared api worker loadgen; do
    grep -q -- "--manifest-path $project/Cargo.toml check .*bans licenses sources advisories$" <<<"$asked" || fail "asked: $asked"
done
echo "ok: $test"

test='without their database advisories are left out, and that is said in one line'
deny 1 advisories
((status == 0)) || fail "its status is $status: $said"
[[ $(grep -c advisories <<<"$said") == 1 && $asked != *advisories* ]] || fail "$said"
echo "ok: $test"

for refused in bans licenses sources advisories; do
    test="what is refused for its $refused fails it, and is shown"
    deny 0 "$refused"
    [[ $status == 1 && $said == *"error[$refused]"* && $said == *'loadgen: refused'* ]] || fail "status $status: $said"
    echo "ok: $test"
done
