#!/usr/bin/env bash
# The long suites, one after the other: all scenarios with power failures and garbage, rolling upgrades, power
# failures alone, garbage alone, the planted bugs, and the tests that take too long for CI. For a night, or
# before a release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/nightly.sh [--seconds N] [--old-bin DIR] [--only SUITE,SUITE...] [--log DIR]

  --seconds N    for scripts/faults/all.sh; the other suites take a fifth of it each; default 600
  --old-bin DIR  for scripts/faults/rolling-upgrade.sh; default: it builds an older coordd
  --only SUITES  of: scenarios, rolling-upgrade, power-loss, fuzz, planted-bugs, long-tests
  --log DIR      where the output of each suite goes; default: a temporary directory

Prints a line for each suite: its name, its exit code, its seconds, and the last line that it printed.
Exit code 0 if all suites passed.
TEXT
}

seconds=600
only=scenarios,rolling-upgrade,power-loss,fuzz,planted-bugs,long-tests
log=
old=()
while (($# > 0)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --old-bin) old=(--old-bin "${2:?--old-bin needs a directory}"); shift ;;
        --only) only=${2:?--only needs names}; shift ;;
        --log) log=${2:?--log needs a directory}; shift ;;
        --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "--seconds: a number" >&2; exit 2; }
log=${log:-$(mktemp -d)}
mkdir -p "$log"
fifth=$(((seconds + 4) / 5))

# The command of a suite.
suite() {
    case $1 in
        scenarios) scripts/faults/all.sh --seconds "$seconds" ;;
        rolling-upgrade) scripts/faults/rolling-upgrade.sh "${old[@]}" --seconds "$fifth" ;;
        power-loss) scripts/faults/power-loss.sh --seconds "$fifth" ;;
        fuzz) scripts/faults/fuzz.sh --seconds "$fifth" ;;
        planted-bugs) scripts/faults/planted-bugs.sh ;;
        # By their names: other ignored tests make fixtures.
        long-tests) cargo test -q -p coordd-tests --test it -- --ignored growing_values_end_none_of_1500_caches ;;
        *) echo "there is no suite $1"; return 2 ;;
    esac
}

IFS=, read -ra suites <<<"$only"
failed=0
for name in "${suites[@]}"; do
    start=$SECONDS
    code=0
    (suite "$name") >"$log/$name.log" 2>&1 || code=$?
    last=$(tail -n 1 "$log/$name.log")
    printf '%-16s exit code %d, %5d s: %s\n' "$name" "$code" $((SECONDS - start)) "$last"
    ((code == 0)) || failed=$((failed + 1))
done
echo "${#suites[@]} suites, $failed failed, $SECONDS s; output: $log"
exit $((failed > 0))
