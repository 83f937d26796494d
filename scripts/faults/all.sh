#!/usr/bin/env bash
# Every scenario once, and a table of what came out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
    cat <<'TEXT'
Usage: scripts/faults/all.sh [--seconds N] [--seed N] [--only NAME,NAME...] [--no-build] [--debug] [--dir DIR]

  --seconds N   for all scenarios together, about; default 600
  --seed N      of each scenario; default: a new one each
  --only NAMES  these scenarios only
  --dir DIR     where histories of failures are kept; default: a temporary directory
  --no-build    run what was built before
  --debug       build and run without optimisation

Exit code 0 if every scenario passed.
TEXT
}

seconds=600
only=
build=yes
profile=release
options=()
while (($# > 0)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --only) only=${2:?--only needs names}; shift ;;
        --seed | --dir) options+=("$1" "${2:?$1 needs a value}"); shift ;;
        --no-build) build=no ;;
        --debug) profile=debug ;;
        --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "--seconds: a number" >&2; exit 2; }

if [[ $build == yes ]]; then
    flags=()
    [[ $profile == release ]] && flags=(--release)
    cargo build --quiet "${flags[@]}" -p coordfault -p coordd-server
fi
bin=${CARGO_TARGET_DIR:-target}/$profile/coordfault
if [[ -n $only ]]; then IFS=, read -ra scenarios <<<"$only"
else mapfile -t scenarios < <("$bin" list | awk '{print $1}'); fi

each=$((seconds / ${#scenarios[@]}))
((each >= 1)) || each=1
table=()
failed=0
for scenario in "${scenarios[@]}"; do
    code=0
    output=$("$bin" run "$scenario" --seconds "$each" "${options[@]}") || code=$?
    line=$(grep "^$scenario " <<<"$output" || echo "$scenario did not run (exit code $code)")
    echo "$output"
    table+=("$line")
    ((code == 0)) || failed=$((failed + 1))
done

echo
echo "== ${#scenarios[@]} scenarios, $failed failed, $SECONDS s"
# The name, the verdict and the figures; what was covered is in the lines above.
printf '%s\n' "${table[@]}" | sed 's/: .*//' | column -t
exit $((failed > 0))
