#!/usr/bin/env bash
# Plants one bug after the other into coordd, and shows that each is found, by what, and how soon.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

usage() {
    cat <<'TEXT'
Usage: scripts/faults/planted-bugs.sh [--seconds N] [--seed N] [--only BUG,BUG...] [--no-build]

  --seconds N   how long to look for each; default 120
  --seed N      of each scenario; default: a new one each
  --only BUGS   these only
  --no-build    use what was built before

Exit code 0 if every bug was found.
TEXT
}

seconds=120
only=
build=yes
seed=()
while (($# > 0)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --only) only=${2:?--only needs names}; shift ;;
        --seed) seed=(--seed "${2:?--seed needs a number}"); shift ;;
        --no-build) build=no ;;
        --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

# What looks for it: a scenario, or tests of a crate. It must fail with the bug, and does not without.
declare -A looks_for=(
    [skipped-fdatasync]="tests coordd-raft power_loss::everything_acknowledged_survives_a_loss_of_power"
    [acknowledged-before-the-disk]="scenario slow-disk-kill-all"
    [acknowledged-before-the-majority]="scenario partition-leader"
    [stale-linearizable-reads]="scenario partition-leader"
    [watch-resumes-one-late]="scenario kill-all"
    [expiry-without-stall-rule]="scenario stall-leader"
    [results-not-in-snapshots]="scenario compaction-and-kill"
    [sequence-not-in-snapshots]="scenario compaction-and-kill"
    [ephemeral-left-behind]="scenario kill-client"
    [session-gap-accepted]="tests coordd-tree script::write"
    [writes-executed-twice]="scenario kill-leader"
    [guards-ignored]="scenario stop-client"
    [reads-of-ones-past]="tests coordd-tests reads::a_node_behind_a_client_refuses_it"
    [wiped-member-votes]="scenario wiped-member"
    [lost-tail-accepted]="scenario torn-writes"
    [log-cut-at-damage]="scenario bit-flips"
    [own-time-in-the-tree]="tests coordd-tests divergence::equal_nodes_go_on"
    [double-grant]="scenario kill-client"
)
if [[ -n $only ]]; then IFS=, read -ra bugs <<<"$only"
else mapfile -t bugs < <(printf '%s\n' "${!looks_for[@]}" | sort); fi

target=${CARGO_TARGET_DIR:-$PWD/target}
# Out of the way of the build without bugs: nothing with bugs stays where others look.
built=$target/planted-bugs-build
bin=$built/release
# The nodes that the tests of coordd-tests start.
export COORDD_TESTS_BIN_DIR=$bin

# The tests of a crate by the names that contain FILTER, built as `cargo test` has built most of it; coordd-tests has no bugs of its own,
# but its nodes do.
run_tests() {
    local crate=$1 filter=$2 features=()
    [[ $crate == coordd-tests ]] || features=(--features "$crate/planted-bugs")
    shift 2
    # The processes that the tests of the store start are its examples.
    [[ $crate != coordd-raft ]] || cargo build --quiet -p "$crate" --examples "${features[@]}"
    cargo test --quiet -p "$crate" --test it "${features[@]}" "$@" -- "$filter"
}

if [[ $build == yes ]]; then
    cargo build --quiet --release --target-dir "$built" \
        --features coordd-server/planted-bugs,coordfault/planted-bugs -p coordd-server -p coordfault
    for bug in "${bugs[@]}"; do
        read -r kind name filter <<<"${looks_for[$bug]:?there is no bug $bug}"
        [[ $kind == scenario ]] || run_tests "$name" "$filter" --no-run
    done
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
missed=0
for bug in "${bugs[@]}"; do
    read -r kind name filter <<<"${looks_for[$bug]:?there is no bug $bug}"
    start=$SECONDS
    code=0
    found=
    if [[ $kind == scenario ]]; then
        "$bin/coordfault" run "$name" --bug "$bug" --seconds "$seconds" "${seed[@]}" --dir "$dir/$bug" >"$dir/out" 2>&1 || code=$?
        found=$(grep -m 1 '^round with seed' "$dir/out" | sed 's/^round with seed [0-9]*: //') || true
    elif run_tests "$name" "$filter" >"$dir/out" 2>&1; then
        COORDD_PLANTED_BUG=$bug run_tests "$name" "$filter" >"$dir/out" 2>&1 || code=$?
        found=$(grep -m 1 -A 1 'panicked at' "$dir/out" | tail -n 1) || true
    else
        echo "$filter fails without the bug, too"
    fi
    rm -rf "${dir:?}/$bug"
    if ((code == 1 || code == 101)) && [[ -n $found ]]; then
        printf '%-30s found after %3d s by %-24s %s\n' "$bug" $((SECONDS - start)) "$name" "${found:0:150}"
    else
        printf '%-30s NOT FOUND in %d s by %s\n' "$bug" $((SECONDS - start)) "$name"
        tail -n 5 "$dir/out" >&2
        missed=$((missed + 1))
    fi
done
echo "planted bugs: ${#bugs[@]}, not found: $missed"
exit $((missed > 0))
