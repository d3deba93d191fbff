#!/usr/bin/env bash
# Packs cargo's binaries and this machine's Redis into the images that the flake builds with Nix:
# the same names, user, folders and commands. The images start from scratch and need no registry.
# They contain this machine's C library, so they run on kernels that it supports.
#   WITH_TRACES   no: without the export of traces [yes]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=docker.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/docker.sh"

read_arguments '' "$@"

USER_AND_GROUP=65532

# Copies a program to /bin, and the libraries that it loads to the same paths as on this machine.
#   pack PROGRAM FOLDER NAME
pack() {
    local file
    install -D -m 755 "$1" "$2/bin/$3"
    for file in $(ldd "$1" | grep -oE '/[^ ]+'); do install -D -m 755 "$(realpath "$file")" "$2$file"; done
}

pack_certificates() {
    local file
    for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        [[ -f $file ]] || continue
        install -D -m 644 "$file" "$1/etc/ssl/certs/ca-certificates.crt"
        return
    done
    die "no CA certificates found: install ca-certificates, or set SSL_CERT_FILE to a PEM file"
}

# Makes an image of a folder; each LINE is one more Dockerfile instruction.
#   import NAME DESCRIPTION FOLDER LINE...
import() {
    local name=$1 description=$2 folder=$3 changes=() line
    shift 3
    for line in "USER $USER_AND_GROUP:$USER_AND_GROUP" 'WORKDIR /data' 'VOLUME /data' \
        "LABEL org.opencontainers.image.title=storm-$name" \
        "LABEL org.opencontainers.image.description=\"$description\"" \
        "LABEL org.opencontainers.image.revision=$(revision)" \
        "LABEL org.opencontainers.image.source=$(manifest_field repository shared)" "$@"; do
        changes+=(--change "$line")
    done
    mkdir -p "$folder/etc" "$folder/data"
    chmod 700 "$folder/data"
    # Without this file, some C libraries query DNS before they read /etc/hosts.
    echo 'hosts: files dns' >"$folder/etc/nsswitch.conf"
    tar --create --file "$folder.tar" --directory "$folder" --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --exclude=./data .
    tar --append --file "$folder.tar" --directory "$folder" --mtime=@1 --owner=$USER_AND_GROUP --group=$USER_AND_GROUP --numeric-owner ./data
    docker import "${changes[@]}" "$folder.tar" "storm-$name:latest" >/dev/null
}

#   import_service PROJECT LINE...
import_service() {
    local project=$1 folder=$work/$1
    shift
    pack "$STORM_BIN/storm-$project" "$folder" "storm-$project"
    pack_certificates "$folder"
    import "$project" "$(manifest_field description "$project")" "$folder" "ENTRYPOINT [\"/bin/storm-$project\"]" \
        "LABEL org.opencontainers.image.version=$(manifest_field version "$project")" \
        "LABEL org.opencontainers.image.licenses=\"$(manifest_field license "$project")\"" "$@"
}

#   healthcheck PROJECT
healthcheck() {
    printf 'HEALTHCHECK --interval=5s --timeout=5s --start-period=15s --retries=3 CMD ["/bin/storm-%s", "healthcheck"]' "$1"
}

require_engine
redis=$("$ROOT/scripts/find-tool.sh" redis-server)
WITH_TRACES=${WITH_TRACES:-yes} && export WITH_TRACES
need_binaries api worker loadgen
mkdir -p "$ROOT/target"
work=$(mktemp -d "$ROOT/target/images.XXXXXX")
trap 'rm -rf "$work"' EXIT

import_service api 'ENV API_ADDR=0.0.0.0:8000' 'ENV DB_URL=sqlite:/data/storm.db' 'EXPOSE 8000' "$(healthcheck api)"
import_service worker 'ENV DB_URL=sqlite:/data/storm.db' 'ENV WORKER_ADDR=0.0.0.0:9000' 'EXPOSE 9000' "$(healthcheck worker)"
import_service loadgen
# redis-server may be Valkey's, whose programs are valkey-server and valkey-cli.
pack "$redis" "$work/redis" redis-server
pack "${redis%-server}-cli" "$work/redis" redis-cli
import redis 'Redis, the notifier between the API and the workers' "$work/redis" \
    'CMD ["redis-server"]' 'ENV PATH=/bin' 'EXPOSE 6379'
