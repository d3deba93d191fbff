#!/usr/bin/env bash
# Tests that every test and file that the documents name exists, and that programs are quoted
# literally: after a line `<!-- from FILE -->`.
# shellcheck disable=SC2016 # the backticks are Markdown
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"
read_arguments '' "$@"
cd -- "$ROOT"

status=0
missing() {
    echo "FAILED: $1 names $2, which does not exist"
    status=1
}

for document in README.md docs/*.md; do
    names=0
    # A name with five words or more is a test's, or a metric's, which metrics.sh tests.
    while read -r name; do
        names=$((names + 1))
        grep -rqE "fn $name\b" --include='*.rs' shared api worker loadgen || missing "$document" "$name"
    done < <(grep -oE '`[a-z0-9]+(_[a-z0-9]+){4,}`' "$document" | tr -d '`' |
        grep -v '^storm_' | sort -u)
    while read -r path; do
        names=$((names + 1))
        [[ -e $path ]] || missing "$document" "$path"
    done < <(grep -oE '`(shared|api|worker|loadgen|scripts|docs)/[A-Za-z0-9_./-]+`' "$document" | tr -d '`' | sort -u)
    quotes=0
    while IFS=$'\t' read -r file quote; do
        quotes=$((quotes + 1))
        quote=$(printf '%b' "$quote")
        [[ $(<"$file") == *"$quote"* ]] || {
            echo "FAILED: $document does not quote $file literally"
            status=1
        }
    done < <(awk '
        /^<!-- from [^ ]+ -->$/ { file = $3; next }
        file != "" && /^```[a-z]+$/ { inside = 1; text = ""; next }
        inside && /^```$/ { print file "\t" text; inside = 0; file = ""; next }
        inside { gsub(/\\/, "\\\\"); text = text (text == "" ? "" : "\\n") $0 }
    ' "$document")
    echo "ok: $document names $names tests and files, and quotes $quotes programs"
done
exit "$status"
