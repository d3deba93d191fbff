#!/usr/bin/env bash
# Makes an image of this machine's PostgreSQL, for tests: it takes the variables of the official one
# that docs/examples/compose.postgres.yml sets. Sourced, never run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../docker.sh"
[[ ${BASH_SOURCE[0]} != "$0" ]] || read_arguments '' "$@"

#   make_postgres_image NAME
make_postgres_image() {
    local postgres programs share library work program file
    postgres=$("$ROOT/scripts/find-tool.sh" postgres) || return
    programs=$(dirname -- "$(readlink -f -- "$postgres")")
    # Debian keeps them apart. pg_config, which knows, belongs to a package for developers.
    share=${programs%/bin}/share
    [[ -e $share/postgres.bki ]] || share=/usr/share/${programs#/usr/lib/} share=${share%/bin}
    library=${programs%/bin}/lib
    work=$(mktemp -d "$ROOT/target/postgres-image.XXXXXX")
    for program in "$programs"/{postgres,initdb,pg_ctl,pg_isready,psql} /bin/bash /bin/sh; do
        install -D -m 755 "$(readlink -f -- "$program")" "$work/bin/${program##*/}"
    done
    # The server finds its files by the place of its program.
    mkdir -p "$work$programs" "$work$share" "$work$library" "$work/etc" "$work/tmp" \
        "$work/var/lib/postgresql/data" "$work/run/postgresql" "$work/var/run/postgresql"
    for program in postgres initdb pg_ctl pg_isready psql; do mv "$work/bin/$program" "$work$programs/"; done
    cp -RL "$share/." "$work$share/"
    cp -RL "$library/." "$work$library/"
    rm -rf "$work$library"/{llvmjit*,bitcode} # a hundred megabytes
    while read -r file; do
        [[ -e $work$file ]] || install -D -m 755 "$(realpath "$file")" "$work$file"
    done < <(find "$work$programs" "$work/bin" "$work$library" -type f -exec ldd {} + 2>/dev/null |
        grep -oE '/[^ :]+\.so[^ :]*' | sort -u | grep -v "^$work")
    echo 'postgres:x:70:70::/var/lib/postgresql:/bin/sh' >"$work/etc/passwd"
    echo 'postgres:x:70:' >"$work/etc/group"
    chmod 1777 "$work/tmp" "$work/run/postgresql" "$work/var/run/postgresql"
    cat >"$work/bin/start" <<'SH'
#!/bin/bash
set -eu
if [[ ! -e $PGDATA/PG_VERSION ]]; then
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username "$POSTGRES_USER" --pwfile /tmp/password --auth scram-sha-256 --auth-local trust \
        --encoding UTF8 --no-locale
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options "-c listen_addresses=''" start
    psql --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE \"$POSTGRES_DB\""
    pg_ctl --wait --mode fast stop
fi
exec "$@" -c listen_addresses='*'
SH
    chmod 755 "$work/bin/start"
    tar --create --directory "$work" --owner=70 --group=70 --numeric-owner . |
        docker import --change 'USER 70:70' --change "ENV PATH=$programs:/bin" \
            --change 'ENV PGDATA=/var/lib/postgresql/data/pgdata' \
            --change 'VOLUME /var/lib/postgresql/data' --change 'ENTRYPOINT ["/bin/start"]' \
            - "$1" >/dev/null
    rm -rf -- "$work"
}
