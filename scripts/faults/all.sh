#!/usr/bin/env bash
# Every scenario once, losses of power and garbage, and a table of what came out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
    cat <<'TEXT'
Usage: scripts/faults/all.sh [--seconds N] [--seed N] [--rounds N] [--only NAME,NAME...] [--no-build] [--debug]
                             [--dir DIR]

  --seconds N   for everything together, about, without what is built; default 600
  --seed N      of each scenario, and of power-loss.sh and fuzz.sh; default: a new one each
  --rounds N    the most rounds of each scenario
  --only NAMES  these scenarios only, without power-loss.sh and fuzz.sh
  --dir DIR     where histories of failures are kept; default: a temporary directory
  --no-build    run the scenarios that were built before; power-loss.sh and fuzz.sh build what they need in any case
  --debug       build and run the scenarios without optimisation

Exit code 0 if nothing failed. What could not be run, for want of strace or a C++ compiler, says so in the table.
TEXT
}

seconds=600
only=
build=yes
profile=release
options=()
seed=()
while (($# > 0)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --only) only=${2:?--only needs names}; shift ;;
        --seed) seed=(--seed "${2:?--seed needs a number}"); shift ;;
        --rounds) options+=(--rounds "${2:?--rounds needs a number}"); shift ;;
        --dir) options+=(--dir "${2:?--dir needs a directory}"); shift ;;
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
others=()
if [[ -n $only ]]; then IFS=, read -ra scenarios <<<"$only"
else
    # An upgrade needs an older build: rolling-upgrade.sh.
    mapfile -t scenarios < <("$bin" list | awk '$1 != "rolling-upgrade" {print $1}')
    others=(power-loss fuzz)
fi

each=$((seconds / (${#scenarios[@]} + ${#others[@]})))
((each >= 1)) || each=1
table=()
failed=0
for scenario in "${scenarios[@]}"; do
    code=0
    output=$("$bin" run "$scenario" --seconds "$each" "${seed[@]}" "${options[@]}") || code=$?
    line=$(grep "^$scenario " <<<"$output" || echo "$scenario did not run (exit code $code)")
    echo "$output"
    table+=("$line")
    ((code == 0)) || failed=$((failed + 1))
done

# What power-loss.sh and fuzz.sh did, from what they print.
figures() {
    case $1 in
        power-loss) sed -n 's/^power-loss *[A-Z]* *//p' ;;
        fuzz) awk '$3 == "executions" { n++; sum += $4 } END { printf "targets=%d executions=%d\n", n, sum }' ;;
    esac
}
other_table=()
for other in "${others[@]}"; do
    code=0
    output=$("scripts/faults/$other.sh" --seconds "$each" "${seed[@]}" 2>&1) || code=$?
    echo "$output"
    case $code in
        0) verdict="PASS  $(figures "$other" <<<"$output")" ;;
        # There is nothing to run it with; its last line says what is missing.
        2 | 3) verdict=$(tail -n 1 <<<"$output"); verdict="not run: ${verdict#"$other: "}" ;;
        *) verdict="FAIL  $(figures "$other" <<<"$output")"; failed=$((failed + 1)) ;;
    esac
    other_table+=("$(printf '%-20s  %s' "$other" "$verdict")")
done

echo
echo "== ${#scenarios[@]} scenarios${others:+, losses of power, fuzzing}, $failed failed, $SECONDS s"
# The name, the verdict and the figures; what was covered is in the lines above.
printf '%s\n' "${table[@]}" | sed 's/: .*//' | column -t
((${#other_table[@]} == 0)) || printf '%s\n' "${other_table[@]}"
exit $((failed > 0))
