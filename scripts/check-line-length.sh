#!/usr/bin/env bash
# Fails if a line of documentation or a comment is longer than 100 columns. Formatters leave
# comments and Markdown as they are, so no other check sees these lines.
#   ROOT   check the files that git tracks in this folder [the project's]
#
# Exempt: table rows, fenced code blocks, and lines of a single word, such as a long URL.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

read_arguments '[ROOT]' "$@"
[[ -d ${1:-$ROOT} ]] || wrong "ROOT: there is no folder $1"
cd -- "${1:-$ROOT}"

COLUMNS_MAX=100

files=()
while IFS= read -rd '' file; do
    # A file that was deleted, but not yet from the index, is still listed.
    [[ ! -f $file ]] || files+=("$file")
done < <(git ls-files -z -- '*.md' '*.rs' '*.mjs' '*.go' '*.sql' '*.toml' '*.sh' '*.py' '*.nix' \
    '*.yml' '*.env' '*.service' '.ci/run' 'Makefile' '*/Makefile')
((${#files[@]} > 0)) || { echo "check-line-length.sh: git tracks no such file here" >&2 && exit 1; }

# Not every awk counts characters (mawk counts bytes). In the C locale all of them count bytes, and
# without the continuation bytes of UTF-8 these are the characters.
LC_ALL=C awk -v max="$COLUMNS_MAX" '
    FNR == 1 {
        fenced = 0
        marker = "#+"
        if (FILENAME ~ /\.md$/) marker = ""
        if (FILENAME ~ /\.(rs|mjs|go)$/) marker = "//[/!]?"
        if (FILENAME ~ /\.sql$/) marker = "--"
    }
    {
        line = text = $0
        is_comment = marker == "" || sub("^[ \t]*" marker, "", text)
        # A fence in a comment ends with the comment at the latest.
        if (!is_comment) fenced = 0
        if (is_comment && text ~ /^[ \t>]*(```|~~~)/) { fenced = !fenced; next }
        gsub(/[\200-\277]/, "", line)
        if (length(line) <= max || fenced) next
        # A comment behind code has blanks on both sides of its marker: a URL has none.
        if (!is_comment && line !~ ("[ \t]" marker "[ \t]")) next
        if (is_comment && text ~ /^[ \t]*\|/) next
        # Without quote mark, bullet, number and the label of a link definition.
        sub(/^[ \t]*(([-*>]|[0-9]+[.)]|\[[^]]*\]:)[ \t]+)*/, "", text)
        if (is_comment && text !~ /[ \t]/) next
        printf "%s:%d: %d columns\n", FILENAME, FNR, length(line)
        long = 1
    }
    END {
        if (long) print "Break these lines at " max " columns; move a comment behind code above it."
        exit long
    }
' "${files[@]}"
