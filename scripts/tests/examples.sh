#!/usr/bin/env bash
# What docker-compose.yml and docs/examples/ say of the settings is what the settings are.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cd -- "$ROOT"

mkdir -p target
work=$(mktemp -d target/test.XXXXXX)
trap 'rm -rf "$work"' EXIT

status=0
differs() {
    echo "FAILED: $1"
    status=1
}

# Those of the program: NAME=DEFAULT.
settings() { awk -F ' = ' '/^[a-z_]+ = / { gsub(/"/, "", $2); print toupper($1) "=" $2 }' shared/src/config/default.toml; }

# Those that docker-compose.yml asks for: NAME=DEFAULT, or NAME alone where it only passes it on.
asked_for() {
    grep -oE '\$\{[A-Z_]+:?-[^}]*\}' docker-compose.yml | sed -E 's/^\$\{([A-Z_]+):?-(.*)\}$/\1=\2/'
    sed -nE 's/^  ([A-Z_]+):$/\1/p' docker-compose.yml
}

# Those that the example tells of: NAME=DEFAULT, the first where there are two.
told_of() { sed -nE 's/^#([A-Z_]+=.*)$/\1/p' docs/examples/compose.env | awk -F= '!seen[$1]++'; }

# The image and the file itself say these.
fixed='DB_URL|API_ADDR|WORKER_ADDR'

while IFS='=' read -r name default; do
    [[ $name =~ ^($fixed)$ ]] && continue
    grep -qE "^$name(=|$)" <(asked_for) || differs "docker-compose.yml does not pass on $name"
    grep -qE "^$name=" <(told_of) || differs "docs/examples/compose.env does not tell of $name"
    # One that is passed on as it is has the program's default.
    if grep -qx "$name" <(asked_for); then
        grep -qxF "$name=$default" <(told_of) || differs "docs/examples/compose.env tells another default of $name than $default"
    fi
done < <(settings)

while IFS= read -r asked; do
    if [[ $asked == *=* ]]; then
        grep -qxF "$asked" <(told_of) || differs "docs/examples/compose.env does not tell of $asked"
    else
        grep -qE "^$asked=" <(settings) || differs "docker-compose.yml passes on $asked, which is no setting"
    fi
done < <(asked_for | sort -u)

while IFS='=' read -r name _; do
    grep -qE "^$name(=|$)" <(asked_for) || differs "docs/examples/compose.env tells of $name, which docker-compose.yml does not ask for"
done < <(told_of)
((status)) || echo "ok: docker-compose.yml and docs/examples/compose.env agree with the settings"

# What either generation of Docker Compose doesn't know, or understands otherwise.
if grep -nE '^(name|version):|^ +(build|include|start_interval|develop|host_ip):' docker-compose.yml; then
    differs 'docker-compose.yml: not every Docker Compose understands that'
else
    echo 'ok: docker-compose.yml says nothing that only one Docker Compose understands'
fi

if command -v systemd-analyze >/dev/null; then
    # It looks for the program; that of an example isn't installed.
    for unit in docs/examples/systemd/*.service; do
        sed 's|^ExecStart=.*|ExecStart=/bin/true|' "$unit" >"$work/${unit##*/}"
    done
    if said=$(systemd-analyze verify "$work"/*.service 2>&1) && [[ -z $said ]]; then
        echo 'ok: systemd understands docs/examples/systemd/'
    else
        differs "systemd does not understand docs/examples/systemd/: $said"
    fi
else
    echo 'left out: docs/examples/systemd/, for there is no systemd-analyze here'
fi
exit "$status"
