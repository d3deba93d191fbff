#!/usr/bin/env bash
# Tests deny.sh: it fails for a dependency that deny.toml refuses, and for an advisory if their
# database can be fetched.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work

# A stub of cargo-deny: it records its arguments and fails as FETCHED and REFUSED say.
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

# Sets output, status and asked.
#   deny FETCHED REFUSED
deny() {
    status=0
    : >"$ASKED"
    output=$(FETCHED=$1 REFUSED=$2 "$ROOT/scripts/deny.sh" 2>&1) || status=$?
    asked=$(<"$ASKED")
}

test='every project is checked with all features, for advisories too if their database can be fetched'
deny 0 nothing
((status == 0)) || fail "its status is $status: $output"
for project in shared api worker loadgen; do
    grep -q -- "--all-features --manifest-path $project/Cargo.toml check .*bans licenses sources advisories$" <<<"$asked" ||
        fail "asked: $asked"
done
echo "ok: $test"

test='without their database, advisories are left out, and one line says so'
deny 1 advisories
((status == 0)) || fail "its status is $status: $output"
[[ $(grep -c advisories <<<"$output") == 1 && $asked != *advisories* ]] || fail "$output"
echo "ok: $test"

for refused in bans licenses sources advisories; do
    test="a refusal by the check of $refused fails and is shown"
    deny 0 "$refused"
    [[ $status == 1 && $output == *"error[$refused]"* && $output == *'loadgen: refused'* ]] ||
        fail "status $status: $output"
    echo "ok: $test"
done
