#!/usr/bin/env bash
# Tests check-line-length.sh: it passes lines of 100 columns and exempt lines, and names longer
# ones.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work
git init --quiet "$work"

# Prints a line of COUNT columns: PREFIX, then words of WORD.
#   line COUNT PREFIX [WORD]
line() {
    local text=$2 word=${3:-word}
    while ((${#text} < $1)); do text+="$word "; done
    text=${text:0:$1}
    printf '%s\n' "${text/% /x}"
}

# Writes standard input to FILE, the only file that git tracks.
#   only FILE
only() {
    git -C "$work" rm --quiet -r --force --ignore-unmatch .
    mkdir -p "$(dirname -- "$work/$1")"
    cat >"$work/$1"
    git -C "$work" add "$1"
}

#   passes CASE FILE        the content is standard input
passes() {
    local output
    only "$2"
    output=$("$ROOT/scripts/check-line-length.sh" "$work") || fail "$1: it was not passed: $output"
    echo "ok: $1"
}

# FILE must fail at LINE alone, which has COLUMNS.
#   catches CASE FILE LINE COLUMNS
catches() {
    local output
    only "$2"
    if output=$("$ROOT/scripts/check-line-length.sh" "$work"); then fail "$1: it was passed"; fi
    [[ $output == "$2:$3: $4 columns"$'\n''Break these lines at 100 columns'* ]] ||
        fail "$1: its output is: $output"
    echo "ok: $1"
}

export LC_ALL=C.UTF-8 # for the lengths here; the check must not depend on it

line 100 'Prose: ' | passes 'a line of 100 columns' README.md
line 101 'Prose: ' | catches 'a line of 101 columns' README.md 1 101
line 100 'Prose: ' 'größer…' | passes 'characters are counted, not bytes' README.md
line 101 'Prose: ' 'größer…' | catches 'a long line with more bytes than characters' docs/A.md 1 101
line 120 '| ' | passes 'a table row' README.md
{ echo '```text' && line 120 '' && echo '```'; } | passes 'a fenced code block' README.md
{ echo '```text' && line 120 '' && echo '```' && line 101 ''; } |
    catches 'a line after a fenced code block' README.md 4 101
printf '* [label]: https://example.com/%s\n' "$(printf 'path/%.0s' {1..20})" |
    passes 'a URL that cannot be broken' README.md
line 120 'See https://example.com and: ' | catches 'a long line with a URL' README.md 1 120

{ echo 'fn main() {}' && line 101 '    //! '; } | catches 'a comment in Rust' api/src/a.rs 2 101
line 101 '/// ' | catches 'a doc comment in Rust' a.rs 1 101
line 120 'let url = "http://example.com"; let text = "' | passes 'code in Rust' a.rs
line 120 'let a = 1; // ' | catches 'a comment behind code' a.rs 1 120
{ echo '/// ```' && line 120 '/// ' && echo 'fn a() {}' && line 101 '// '; } |
    catches 'a fence ends with its comment' a.rs 4 101
for file in Cargo.toml run.sh Makefile .ci/run docker-compose.yml flake.nix a.env a.service; do
    line 101 '# ' | catches "a comment in $file" "$file" 1 101
    line 120 'key = "value" ' | passes "a line without a comment in $file" "$file"
done
line 101 '-- ' | catches 'a comment in SQL' a.sql 1 101
