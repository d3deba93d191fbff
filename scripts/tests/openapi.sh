#!/usr/bin/env bash
# Tests the description of the API against live stacks. Schemathesis sends what it describes, and
# what it forbids, in chains along its links, with tokens and without; clients that are generated
# from it submit, wait, list, cancel and read refusals. The tools come from PyPI and npm, into
# target/openapi.
#
#   SEED      the seed of what Schemathesis sends [1]
#   MAX_TIME  the seconds of each of its two runs [50]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../stack.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../stack.sh"
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
cd -- "$ROOT"

PYTHON_TOOLS=(schemathesis==4.32.5 openapi-python-client==0.29.1)
NODE_TOOLS=(openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3 @types/node@20.19.25)
TOOLS=$ROOT/target/openapi
SUPPORT=$ROOT/scripts/tests/support

# What is installed is kept for the next run, until another version is asked for.
install_tools() {
    local python=${PYTHON_TOOLS[*]} node=${NODE_TOOLS[*]}
    mkdir -p "$TOOLS"
    if [[ $(cat "$TOOLS/python.txt" 2>/dev/null) != "$python" ]]; then
        rm -rf "$TOOLS/python"
        python3 -m pip install --quiet --root-user-action ignore --target "$TOOLS/python" \
            "${PYTHON_TOOLS[@]}" || return
        printf '%s' "$python" >"$TOOLS/python.txt"
    fi
    if [[ $(cat "$TOOLS/node.txt" 2>/dev/null) != "$node" ]]; then
        rm -rf "$TOOLS/node"
        mkdir -p "$TOOLS/node"
        (cd -- "$TOOLS/node" && npm init --yes >/dev/null &&
            npm install --no-audit --no-fund --silent "${NODE_TOOLS[@]}") || return
        printf '%s' "$node" >"$TOOLS/node.txt"
    fi
    export PYTHONPATH=$TOOLS/python PYTHONDONTWRITEBYTECODE=1 PATH=$TOOLS/node/node_modules/.bin:$PATH
}

# Sets the settings of a stack where all need a token, and passes the tokens on.
with_tokens() {
    make_tokens
    export API_TOKENS METRICS_TOKEN
}

# The same of a stack where only operators need one.
open() { make_tokens; }

make_tokens() {
    new_token client
    STORM_TOKEN=${made[0]} API_TOKENS=${made[1]}
    new_token operator
    OPERATOR_TOKEN=${made[0]} ADMIN_TOKENS=${made[1]}
    new_token scraper
    SCRAPER_TOKEN=${made[0]} METRICS_TOKEN=${made[1]}
    export STORM_TOKEN OPERATOR_TOKEN SCRAPER_TOKEN ADMIN_TOKENS
}

# Sets made to a new token and its entry for the settings.
#   new_token NAME
new_token() { mapfile -t made < <("$STORM_BIN/storm-api" token new "$1" 2>/dev/null); }

# Callbacks go to one port of this machine, where nobody listens, whatever URLs are sent.
no_callbacks() {
    export CALLBACK_PORTS HANDLERS__NOBODY__URL
    CALLBACK_PORTS=$(free_port 12000)
    HANDLERS__NOBODY__URL=http://127.0.0.1:$CALLBACK_PORTS/
}

# Sends requests to the stack for MAX_TIME seconds.
#   schemathesis CONFIGURATION
schemathesis() {
    local configuration=$work/schemathesis.toml description=$work/openapi.json
    cat "$SUPPORT/schemathesis/"{common,"$1"}.toml >"$configuration"
    # The document says which paths need a token where tokens are set up. Where none are, it is read
    # as its text says: only operators need one.
    python3 "$SUPPORT/description.py" "$STORM_API/openapi.json" "$1" >"$description" || return
    # It keeps what it has learned in the working folder.
    cd -- "$work"
    local said=$work/said.txt phase
    "$TOOLS/python/bin/schemathesis" --config-file "$configuration" run --url "$STORM_API" \
        --seed "${SEED:-1}" --max-time "${MAX_TIME:-50}" --workers 1 "$description" |
        tee "$said" || return
    # One that is left out fails nothing by itself.
    for phase in Examples Coverage Fuzzing Stateful; do
        grep -q "✅ $phase" "$said" || { echo "the phase $phase did not run" && return 1; }
    done
}

# Runs COMMAND beside a stack of its own, which PREPARE has set up.
#   beside_stack PREPARE COMMAND...
beside_stack() {
    (
        "$1"
        no_callbacks
        stack_start api worker
        stack_run "${@:2}"
    ) >"$work/output" 2>&1 || fail "status $?"
    : >"$work/output"
}

typescript_client() {
    local folder=$TOOLS/node/client
    mkdir -p "$folder" && cp "$SUPPORT/clients/client.ts" "$folder" || return
    printf '{"type": "module"}\n' >"$folder/package.json"
    openapi-typescript "$STORM_API/openapi.json" --output "$folder/schema.ts" &&
        (cd -- "$folder" && tsc --strict --target es2022 --module nodenext --moduleResolution nodenext \
            --types node --outDir build client.ts && node build/client.js)
}

python_client() {
    local folder=$TOOLS/client
    rm -rf "$folder"
    mkdir -p "$folder"
    printf 'package_name_override: storm_client\npost_hooks: []\n' >"$folder/config.yml"
    python3 -m openapi_python_client generate --url "$STORM_API/openapi.json" --meta none \
        --config "$folder/config.yml" --output-path "$folder/storm_client" --fail-on-warning &&
        PYTHONPATH=$folder:$PYTHONPATH python3 "$SUPPORT/clients/client.py"
}

clients() { typescript_client && python_client; }

for tool in node npm redis-server; do
    "$ROOT/scripts/find-tool.sh" "$tool" >/dev/null || fail "$tool is missing"
done
make_work
build_as_tests api worker

test='the tools are installed'
install_tools >"$work/output" 2>&1 || fail "status $?"
: >"$work/output"
echo "ok: $test"

test='generated clients talk with the service'
beside_stack with_tokens clients
echo "ok: $test"

test='Schemathesis finds nothing where tokens are required'
beside_stack with_tokens schemathesis with_tokens
echo "ok: $test"

test='Schemathesis finds nothing where none is'
beside_stack open schemathesis open
echo "ok: $test"
