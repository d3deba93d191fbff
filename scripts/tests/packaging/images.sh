#!/usr/bin/env bash
# The promises of the four images that are loaded, whoever built them: the same words, no shell, and small.
#   REBUILD=worker    and by Nix, twice: this one's binary and image are the same both times
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../docker.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../docker.sh"
# shellcheck source-path=SCRIPTDIR source=../support/images.sh
source "$ROOT/scripts/tests/support/images.sh"

LARGEST=$((40 * 1000 * 1000)) # bytes, the C library aside

fail() { die "FAILED: $test: $*"; }

# Prints what an image says of itself, in a line for each.
#   words IMAGE
words() {
    docker image inspect "$1" --format '{{with .Config -}}
        user {{.User}}
        folder {{.WorkingDir}}
        volumes {{json .Volumes}}
        run {{json .Entrypoint}} {{json .Cmd}}
        environment {{json .Env}}
        ports {{json .ExposedPorts}}
        health {{with .Healthcheck}}{{json .Test}} {{.Interval}} {{.Timeout}} {{.StartPeriod}} {{.Retries}}{{end}}
        {{range $key, $value := .Labels}}{{$key}}={{$value}}
        {{end}}{{end}}' | sed 's/^ *//; s/ *$//; /^$/d'
}

#   must_be IMAGE      with the words of standard input
must_be() {
    local difference
    difference=$(diff <(sed 's/^ *//; s/ *$//' | sort) <(words "$1" | sort)) || fail "$1 differs from what it should be:
$difference"
}

#   labels PROJECT
labels() {
    cat <<LABELS
        org.opencontainers.image.description=$(manifest_field description "$1")
        org.opencontainers.image.licenses=$(manifest_field license "$1")
        org.opencontainers.image.title=storm-$1
        org.opencontainers.image.version=$(manifest_field version "$1")
LABELS
}

require_engine

test='whoever built them, they say the same'
must_be storm-api <<WORDS
    user 65532:65532
    folder /data
    volumes {"/data":{}}
    run ["/bin/storm-api"] null
    environment ["API_ADDR=0.0.0.0:8000","DB_URL=sqlite:/data/storm.db"]
    ports {"8000/tcp":{}}
    health ["CMD","/bin/storm-api","healthcheck"] 5s 5s 15s 3
$(labels api)
WORDS
must_be storm-worker <<WORDS
    user 65532:65532
    folder /data
    volumes {"/data":{}}
    run ["/bin/storm-worker"] null
    environment ["DB_URL=sqlite:/data/storm.db","WORKER_ADDR=0.0.0.0:9000"]
    ports {"9000/tcp":{}}
    health ["CMD","/bin/storm-worker","healthcheck"] 5s 5s 15s 3
$(labels worker)
WORDS
must_be storm-loadgen <<WORDS
    user 65532:65532
    folder /data
    volumes {"/data":{}}
    run ["/bin/storm-loadgen"] null
    environment null
    ports null
    health
$(labels loadgen)
WORDS
must_be storm-redis <<WORDS
    user 65532:65532
    folder /data
    volumes {"/data":{}}
    run null ["redis-server"]
    environment ["PATH=/bin"]
    ports {"6379/tcp":{}}
    health
    org.opencontainers.image.description=Redis, the doorbell between the api and the worker
    org.opencontainers.image.title=storm-redis
WORDS
echo "ok: $test"

for image in storm-api storm-worker storm-loadgen storm-redis; do
    test="$image has no shell, CA certificates where it calls out, and a /data of its user's"
    files=$(files_of "$image")
    shells=$(shells_among <<<"$files")
    [[ -z $shells ]] || fail "there is $shells"
    grep -q ' 65532/65532 data/$' <<<"$files" || fail "/data is $(grep ' data/$' <<<"$files")"
    [[ $image == storm-redis ]] || grep -q 'etc/ssl/certs/ca-certificates.crt' <<<"$files" || fail 'there are no certificates'
    echo "ok: $test"

    test="$image holds at most 40 MB beside the C library"
    bytes=$(awk '$3 !~ /(^|\/)(ld-linux|libc|libm|libgcc_s|libpthread|libdl|librt)[-.][^\/]*$|glibc|xgcc|-gcc-/ { bytes += $1 } END { print bytes }' <<<"$files")
    ((bytes <= LARGEST)) || fail "it holds $bytes bytes"
    echo "ok: $test: $((bytes / 1000)) kB"
done

if [[ -n ${REBUILD:-} ]]; then
    test="two builds of image-$REBUILD have one digest"
    flake=$("$ROOT/scripts/nix.sh" ref)
    mkdir -p "$ROOT/target"
    digest() { "$(realpath "$ROOT/target/image-$REBUILD")" 2>/dev/null | sha256sum; }
    "$ROOT/scripts/nix.sh" build "$flake#image-$REBUILD" --out-link "$ROOT/target/image-$REBUILD"
    first=$(digest)
    # Nix builds both again, and compares byte for byte with what it has.
    for name in "$REBUILD" "image-$REBUILD"; do
        "$ROOT/scripts/nix.sh" build --rebuild "$flake#$name" --no-link || fail "two builds of $name differ"
    done
    [[ $(digest) == "$first" ]] || fail "the digests are $first and $(digest)"
    # The sandbox's folder, and those of the crates.
    ! grep -aqE '/build/|/nix/store/[a-z0-9]+-(cargo-vendor-dir|rustc|source)' "$("$ROOT/scripts/nix.sh" path-info "$flake#$REBUILD" 2>/dev/null)/bin/storm-$REBUILD" || fail 'a path of the build is in the binary'
    rm "$ROOT/target/image-$REBUILD"
    echo "ok: $test: ${first%% *}"
fi
