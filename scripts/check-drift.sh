#!/usr/bin/env bash
# Fails if the four projects differ in lints, editions, dependency requirements or locked versions.
# There is no workspace that would keep them the same. Each difference compiles a crate once more.
#   ROOT   the folder of the projects [this one]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

read_arguments '[ROOT]' "$@"
[[ -e ${1:-$ROOT}/shared/Cargo.toml ]] || wrong "ROOT: there is no shared/Cargo.toml in $1"
cd -- "${1:-$ROOT}"

# Prints every entry of the manifests: FILE, TABLE, KEY and VALUE, separated by tabs.
entries() {
    awk '
        { sub(/(^|[ \t])#.*$/, ""); gsub(/[ \t]+/, " "); sub(/^ /, ""); sub(/ $/, "") }
        $0 == "" { next }
        entry == "" && /^\[/ { table = $0; gsub(/[][ ]/, "", table); next }

        # An entry continues until its brackets are closed.
        { entry = entry == "" ? $0 : entry " " $0 }
        { text = entry; if (gsub(/[[{]/, "", text) > gsub(/[]}]/, "", text)) next }
        {
            key = value = entry
            sub(/ ?=.*$/, "", key)
            sub(/^[^=]*= ?/, "", value)
            printf "%s\t%s\t%s\t%s\n", FILENAME, table, key, value
            entry = ""
        }
    ' {shared,api,worker,loadgen}/Cargo.toml
}

# Each of these prints facts to compare: SUBJECT, PLACE and VALUE, separated by tabs.

facts_of_tables() {
    entries | awk -F '\t' '
        $2 == "package" && $3 ~ /^(edition|license|repository|rust-version|version)$/ { print $3 "\t" $1 "\t" $4 }
        $2 ~ /^(lints|profile)/ { print "[" $2 "] " $3 "\t" $1 "\t" $4 }
    '
}

facts_of_requirements() {
    entries | awk -F '\t' '
        # The only feature that differs: tests may pause the clock of tokio, the programs may not.
        $2 ~ /dev-dependencies$/ { sub(/, "test-util"/, "", $4) }
        # Behind a feature of one project, what another one always needs is optional.
        { sub(/, optional = true/, "", $4) }
        $4 ~ /^[{] version = "[^"]*" [}]$/ { gsub(/^[{] version = | [}]$/, "", $4) }
        $2 ~ /dependencies$/ { print $3 "\t" $1 " [" $2 "]\t" $4 }
    '
}

facts_of_locks() {
    awk '
        # Versions that cargo treats as compatible: 1.x, 0.9.x, 0.0.3.
        function series(version,    part) {
            split(version, part, ".")
            if (part[1] > 0) return part[1] ".x"
            return part[2] > 0 ? "0." part[2] ".x" : version
        }
        { gsub(/"/, "", $3) }
        /^name = / { name = $3 }
        /^version = / && name != "" { print name " " series($3) "\t" FILENAME "\t" $3; name = "" }
    ' {shared,api,worker,loadgen}/Cargo.lock
}

# Reads facts, and fails if a subject has two values. With `everywhere`, it also fails if a subject
# is missing in a place.
compare() {
    awk -F '\t' -v everywhere="${1:-}" '
        !($1 in known) { known[$1]; subjects[++subject_count] = $1 }
        !($2 in known) { known[$2]; places[++place_count] = $2 }
        ($1 in first) && first[$1] != $3 { differs[$1] }
        { first[$1] = $3; value[$1, $2] = $3; occurs[$1]++ }
        END {
            for (i = 1; i <= subject_count; i++) {
                subject = subjects[i]
                if (!(subject in differs) && !(everywhere && occurs[subject] < place_count)) continue
                drift = 1
                print subject " differs:"
                for (j = 1; j <= place_count; j++)
                    if ((subject, places[j]) in value) printf "    %-38s %s\n", places[j], value[subject, places[j]]
                    else if (everywhere) printf "    %-38s (nothing)\n", places[j]
            }
            exit drift
        }
    '
}

# The comparison does not see a requirement that is split into several entries.
all_in_one_line() {
    entries | awk -F '\t' '
        $2 ~ /dependencies\./ || ($2 ~ /dependencies$/ && $3 ~ /\./) {
            printf "%s [%s] %s: write the requirement in one line, so that it is compared\n", $1, $2, $3
            bad = 1
        }
        END { exit bad }
    '
}

status=0
facts_of_tables | compare everywhere || status=1
all_in_one_line || status=1
facts_of_requirements | compare || status=1
facts_of_locks | compare || status=1
exit "$status"
