#!/usr/bin/env bash
# Tests that docs/LOGGING.md has each event of the log: its message, level, fields and target, and
# no other; and that each field is explained there. The events are read from the sources.
# shellcheck disable=SC2016 # the backticks are Markdown
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"
read_arguments '' "$@"
cd -- "$ROOT"

MANUAL=docs/LOGGING.md

# Prints each event in the FILEs: MESSAGE, LEVEL, FIELDS and TARGET as a row of the manual.
#   events FILE...
events() {
    # The targets that the code names by a constant.
    local constants
    constants=$(grep -rhoE 'const [A-Z]+: &str = "[a-z]+"' shared/src/telemetry* |
        sed -E 's/const ([A-Z]+): &str = "(.*)"/\1=\2/')
    awk -v constants="$constants" '
        BEGIN {
            n = split(constants, pairs, "\n")
            for (i = 1; i <= n; i++) { split(pairs[i], pair, "="); constant[pair[1]] = pair[2] }
        }
        FNR == 1 { if (file != "") scan(); file = FILENAME; text = ""; in_tests = pending = 0 }
        # The tests of a module are at its end. `mod x;` only declares a module for tests.
        /^#\[cfg\(test\)\]$/ { pending = 1; next }
        pending && /^(pub(\([a-z]+\))? )?mod .*\{$/ { in_tests = 1 }
        { pending = 0 }
        in_tests || /^[ \t]*\/\// { next }
        { text = text $0 "\n" }
        END { scan() }

        # The path of the module in FILE, as a target.
        function module(    path) {
            path = file
            sub(/\/src\/(lib|main)\.rs$/, "", path)
            sub(/\/src\//, "::", path)
            sub(/\.rs$/, "", path)
            gsub(/\//, "::", path)
            return "storm_" path
        }

        function scan(    rest, level) {
            rest = text
            while (match(rest, /(^|[^A-Za-z_])(error|warn|info|debug|trace)!\(|Condition::healthy\(/)) {
                level = substr(rest, RSTART, RLENGTH)
                rest = substr(rest, RSTART + RLENGTH)
                gsub(/[^a-zA-Z]/, "", level)
                parse(rest)
                if (level ~ /healthy/) {
                    # Two events that condition.rs logs.
                    if (count < 2 || args[1] !~ /^"/) continue
                    row(literal(args[1]), "warn", "`error`, `trouble`", "storm_shared::services::store::condition")
                    row(literal(args[2]), "info", "", "storm_shared::services::store::condition")
                } else event(level)
            }
        }

        # Splits the arguments at the start of REST into args, as far as the closing bracket.
        function parse(rest,    i, c, depth, quoted, argument) {
            count = depth = quoted = 0
            argument = ""
            for (i = 1; i <= length(rest); i++) {
                c = substr(rest, i, 1)
                if (quoted && c == "\\") { argument = argument substr(rest, i++, 2); continue }
                if (c == "\"") quoted = !quoted
                if (!quoted) {
                    if (c ~ /[({[]/) depth++
                    if (c ~ /[]})]/ && depth-- == 0) break
                    if (c == "," && depth == 0) { args[++count] = trim(argument); argument = ""; continue }
                }
                argument = argument c
            }
            if (trim(argument) != "") args[++count] = trim(argument)
        }

        function trim(argument) {
            gsub(/^[ \t\n]+|[ \t\n]+$/, "", argument)
            return argument
        }

        function literal(argument) {
            gsub(/\\\n[ \t]*/, "", argument)
            gsub(/^"|"$/, "", argument)
            gsub(/\\"/, "\"", argument)
            return argument
        }

        function event(level,    i, j, name, names, target, fields, swap, message) {
            target = module()
            names = 0
            message = ""
            for (i = 1; i <= count; i++) {
                name = args[i]
                if (name ~ /^target:/) {
                    sub(/^target:[ \t\n]*/, "", name)
                    if (name !~ /^"/) sub(/^.*::/, "", name)
                    target = name ~ /^"/ ? literal(name) : constant[name]
                    continue
                }
                if (name ~ /^"/) { message = literal(name); break }
                sub(/[ \t\n]*=.*$/, "", name)
                sub(/^[%?]/, "", name)
                found[++names] = name
            }
            if (message == "{}" && file ~ /condition\.rs$/) return
            for (i = 1; i < names; i++) for (j = names; j > i; j--) if (found[j] < found[j - 1]) {
                swap = found[j]; found[j] = found[j - 1]; found[j - 1] = swap
            }
            fields = ""
            for (i = 1; i <= names; i++) fields = fields (i > 1 ? ", " : "") "`" found[i] "`"
            row(message, level, fields, target)
        }

        function row(message, level, fields, target) {
            printf "| `%s` | %s |%s| `%s` |\n", message, level, fields == "" ? " " : " " fields " ", target
        }
    ' "$@"
}

sources=()
while IFS= read -r file; do sources+=("$file"); done < <(
    find shared/src api/src worker/src -name '*.rs' ! -name tests.rs ! -path '*/tests/*' | LC_ALL=C sort
)

status=0
failed() {
    echo "FAILED: $1"
    status=1
}

# The reader of the sources itself: what it must find in an example.
mkdir -p target
work=$(mktemp -d target/logging.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/api/src"
cat >"$work/api/src/a.rs" <<'EXAMPLE'
// warn!("in a comment")
#[cfg(test)]
mod declared;
fn f() {
    tracing::warn!(
        %z,
        ?a,
        b = g(1, "),"),
        "two, \
         lines"
    );
    debug!(target: "t", "no \"field\"");
    info!(target: FATAL, c, "c");
}
#[cfg(test)]
mod tests {
    fn g() {
        error!("in a test");
    }
}
EXAMPLE
expected='| `two, lines` | warn | `a`, `b`, `z` | `storm_api::a` |
| `no "field"` | debug | | `t` |
| `c` | info | `c` | `fatal` |'
read_example=$(events "$work/api/src/a.rs" | sed "s|storm_$work/||; s|storm_.*::api::a|storm_api::a|")
[[ $read_example == "$expected" ]] || failed "the reader of the sources reads this from its example:
$read_example"

events "${sources[@]}" | LC_ALL=C sort -u >"$work/code"
grep -E '^\| `[^`]+` \| (error|warn|info|debug|trace) \|' "$MANUAL" >"$work/manual.unsorted" || true
LC_ALL=C sort "$work/manual.unsorted" >"$work/manual"
(($(wc -l <"$work/code") > 50)) || failed "the sources have few events: $(wc -l <"$work/code")"
while IFS= read -r row; do failed "$MANUAL lacks: $row"; done < <(LC_ALL=C comm -23 "$work/code" "$work/manual")
while IFS= read -r row; do failed "no source has: $row"; done < <(LC_ALL=C comm -13 "$work/code" "$work/manual")

# What varies is in the fields, so that a message can be searched for, and counted.
while IFS= read -r row; do failed "the message varies: $row"; done < <(grep -E '^\| `[^`]*\{' "$work/code" || true)

sed -E 's/^\| `[^`]+` \| [a-z]+ \| ?(.*)\| `[^`]+` \|$/\1/' "$work/code" | grep -oE '`[^`]+`' | LC_ALL=C sort -u >"$work/fields"
awk '/^## / { inside = $0 == "## Fields" } inside' "$MANUAL" | sed -nE 's/^\| (`[^|]+`) \|.*/\1/p' |
    grep -oE '`[^`]+`' | LC_ALL=C sort >"$work/explained"
while IFS= read -r field; do failed "$MANUAL explains no field $field"; done < <(LC_ALL=C comm -23 "$work/fields" "$work/explained")
while IFS= read -r field; do failed "no event has the field $field"; done < <(LC_ALL=C comm -13 "$work/fields" "$work/explained")

((status > 0)) || echo "ok: $MANUAL has the $(wc -l <"$work/code") events of the log, and $(wc -l <"$work/fields") fields"
exit "$status"
