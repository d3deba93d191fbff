#!/usr/bin/env bash
# Tests that docker-compose.yml and docs/examples/ agree with the settings of the program.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=support/test.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/support/test.sh"
read_arguments '' "$@"
make_work
cd -- "$ROOT"

status=0
differs() {
    echo "FAILED: $1"
    status=1
}

# Prints the settings of the program: NAME=DEFAULT.
settings() {
    awk -F ' = ' '/^[a-z_]+ = / { gsub(/"/, "", $2); print toupper($1) "=" $2 }' \
        shared/src/config/default.toml
}

# Prints the variables of docker-compose.yml: NAME=DEFAULT, or NAME alone if it only passes it on.
compose_variables() {
    grep -oE '\$\{[A-Z_]+:?-[^}]*\}' docker-compose.yml | sed -E 's/^\$\{([A-Z_]+):?-(.*)\}$/\1=\2/'
    sed -nE 's/^  ([A-Z_]+):$/\1/p' docker-compose.yml
}

# Prints the variables of the example: NAME=DEFAULT, the first if a name occurs twice.
example_variables() { sed -nE 's/^#([A-Z_]+=.*)$/\1/p' docs/examples/compose.env | awk -F= '!seen[$1]++'; }

# Prints the variables of traces, which OpenTelemetry has named.
traces_variables() { sed -nE 's/^\| (`OTEL_[^|]*) \|.*/\1/p' docs/TRACES.md | grep -oE 'OTEL_[A-Z_]+'; }

# Fixed in the images and in docker-compose.yml.
fixed='DB_URL|API_ADDR|WORKER_ADDR'

while IFS='=' read -r name default; do
    [[ $name =~ ^($fixed)$ ]] && continue
    grep -qE "^$name(=|$)" <(compose_variables) || differs "docker-compose.yml does not pass on $name"
    grep -qE "^$name=" <(example_variables) || differs "docs/examples/compose.env does not list $name"
    # A variable without a value in docker-compose.yml keeps the program's default.
    if grep -qx "$name" <(compose_variables); then
        grep -qxF "$name=$default" <(example_variables) ||
            differs "docs/examples/compose.env has a default for $name other than $default"
    fi
done < <(settings)

(($(traces_variables | wc -l) >= 10)) || differs 'docs/TRACES.md lists few variables'
while IFS= read -r name; do
    grep -qx "$name" <(compose_variables) || differs "docker-compose.yml does not pass on $name"
    grep -qE "^$name=" <(example_variables) || differs "docs/examples/compose.env does not list $name"
done < <(traces_variables)

while IFS= read -r variable; do
    if [[ $variable == *=* ]]; then
        grep -qxF "$variable" <(example_variables) ||
            differs "docs/examples/compose.env does not list $variable"
    else
        grep -qE "^$variable(=|$)" <(settings && traces_variables) ||
            differs "docker-compose.yml passes on $variable, which is not a setting"
    fi
done < <(compose_variables | sort -u)

while IFS='=' read -r name _; do
    grep -qE "^$name(=|$)" <(compose_variables) ||
        differs "docs/examples/compose.env lists $name, which docker-compose.yml does not use"
done < <(example_variables)

# docker-compose.yml cannot list the tables of handlers. The documents name variables of examples.
handler_keys() { sed -nE 's/^#([a-z_]+)[ .].*/\1/p' shared/src/config/default.toml | tr '[:lower:]' '[:upper:]'; }
while IFS= read -r variable; do
    grep -qx "$(awk -F '__' '{ print $3 }' <<<"$variable")" <(handler_keys) ||
        differs "the documents name $variable, which is not a key of a handler's table"
done < <(grep -ohE 'HANDLERS__[A-Z0-9_]+' docker-compose.yml docs/*.md docs/examples/compose.env |
    grep -E '__.+__' | sort -u)
((status)) || echo "ok: docker-compose.yml and docs/examples/compose.env agree with the settings"

# Keys that Docker Compose 1 or 2 does not know, or treats differently from the other.
if grep -nE '^(name|version):|^ +(build|include|start_interval|develop|host_ip):' docker-compose.yml; then
    differs 'docker-compose.yml: these keys do not work in both Docker Compose 1 and 2'
else
    echo 'ok: docker-compose.yml works in both Docker Compose 1 and 2'
fi

if command -v systemd-analyze >/dev/null; then
    # systemd-analyze checks that the program exists; ours is not installed here.
    for unit in docs/examples/systemd/*.service; do
        sed 's|^ExecStart=.*|ExecStart=/bin/true|' "$unit" >"$work/${unit##*/}"
    done
    if output=$(systemd-analyze verify "$work"/*.service 2>&1) && [[ -z $output ]]; then
        echo 'ok: systemd accepts docs/examples/systemd/'
    else
        differs "systemd does not accept docs/examples/systemd/: $output"
    fi
else
    echo 'skipped: docs/examples/systemd/, because systemd-analyze is not installed'
fi
exit "$status"
