#!/usr/bin/env bash
# Takes the README's pictures from real runs, into docs/pictures, each light and dark: the main plot
# of the report of a sweep of storms, and the live page during one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=tests/support/browser.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/tests/support/browser.sh"
read_arguments '' "$@"

find_browser 'the pictures'
need_binaries api worker loadgen
work=$(mktemp -d)
show=
trap '[[ -z $show ]] || kill -INT -- "-$show"; rm -rf "$work"' EXIT

#   picture report|live FILE|ADDRESS
picture() {
    PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/scripts/pictures.py" "$chromium" "$chromedriver" \
        "$ROOT/docs/pictures" "$@"
}

"$ROOT/scripts/storm.sh" --rates 10,20,40,80,160,320 --duration 10s --records 20 \
    --csv "$work/storm.csv"
picture report "$work/storm.html"

# A process group of its own, which Ctrl-C ends as it does in a terminal: see tests/show.sh.
set -m
env --default-signal=INT "$ROOT/scripts/show.sh" >"$work/show" &
show=$!
set +m
until grep -q '^look at' "$work/show"; do
    kill -0 "$show" || die 'make show has ended'
    sleep 0.1
done
picture live "$(sed -n 's/^look at *//p' "$work/show")"
say "pictures  docs/pictures"
