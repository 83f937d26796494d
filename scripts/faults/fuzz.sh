#!/usr/bin/env bash
# Fuzzes the decoders that face the network or the disk; see DEVELOPERS.md. Needs a C++ compiler, for libFuzzer.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: scripts/faults/fuzz.sh [--seconds T] [--target NAME]... [--seed S] [--keep] [--minimize] [--check-lock] [--list]

Builds all fuzz targets, runs them for T seconds together (60), and says of each how it went, in one line. The exit code is 0
if none failed, 1 if one did, 3 if there is nothing to fuzz with (cargo-fuzz cannot be installed, or no C++ compiler).

  --seconds T    for all targets together; every target gets an equal part, and a second at least
  --target NAME  this target only; may be given several times
  --seed S       of the fuzzer's random numbers, for a run like another one; drawn if it is not given
  --keep         goes on from what earlier runs with --keep have found, and keeps it, beside the build
  --minimize     puts the inputs kept so far that reach new code into the corpus in the repository, before the run
  --check-lock   only checks that the targets are built with the versions that coordd is built with
  --list         only lists the targets

Inputs that make a target fail are kept in a directory that is printed. To run one again:
  cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none TARGET FILE
HELP
}

readonly CARGO_FUZZ=0.13.2
# Of the whole process, with the fuzzer's own tables. What an input may take is bounded closer, in tests/fuzz/src/lib.rs.
readonly RSS_LIMIT_MB=512
# An input that takes so long is a finding.
readonly SECONDS_OF_ONE_MAX=10
# New places in the code that an input in the repository has to reach.
readonly PLACES_OF_AN_INPUT=8
# A larger input says nothing that a smaller one could not.
readonly INPUT_BYTES_MAX=4096

cd "$(dirname "$0")/../.."
repository=$PWD
seconds=60
seed=$RANDOM
selected=()
keep= minimize=
while (($#)); do
    case $1 in
        --seconds) seconds=${2:?--seconds needs a number}; shift ;;
        --target) selected+=("${2:?--target needs a name}"); shift ;;
        --seed) seed=${2:?--seed needs a number}; shift ;;
        --keep) keep=1 ;;
        --minimize) keep=1 minimize=1 ;;
        --check-lock) check_lock=1 ;;
        --list) list=1 ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

targets() { sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' tests/fuzz/Cargo.toml; }

# Two lock files drift apart by themselves: what is fuzzed must be what is shipped.
locks_agree() {
    local others
    others=$(awk '
        FNR == 1 { name = "" }
        /^name = / { name = $3; next }
        !/^version = / || !name { next }
        FILENAME == ARGV[1] { ours[name]; versions[name, $3]; next }
        # What only the targets use has no version to agree with.
        name in ours && !((name, $3) in versions) { print name, $3 }
    ' Cargo.lock tests/fuzz/Cargo.lock)
    [[ -z $others ]] && return
    printf 'tests/fuzz/Cargo.lock has other versions than Cargo.lock:\n%s\n' "$others" >&2
    echo 'bring it in line: cp Cargo.lock tests/fuzz/ && cargo metadata --manifest-path tests/fuzz/Cargo.toml >/dev/null' >&2
    return 1
}

# Adds to a corpus in the repository, of what was kept, the inputs that each reach several places in the code which nothing
# before them does, those that reach most first. libFuzzer's own merge keeps one for every place: some thousand files.
add_what_reaches_new_code() {
    local binary=$1 corpus=$2 grown=$3 input
    # Places are edges: what only repeats a loop more often is not worth a file in the repository.
    mkdir -p "$work/merged"
    cp "$corpus"/* "$work/merged"
    "$binary" -set_cover_merge=1 -use_counters=0 -max_len=1024 -merge_control_file="$work/places" "$work/merged" "$grown" \
        >"$log" 2>&1 || { tail -5 "$log" >&2; exit 1; }
    # The number of inputs, that of those already in the corpus, the inputs, and then what each of them reaches.
    awk -v least=$PLACES_OF_AN_INPUT '
        NR == 1 { inputs = $1; next }
        NR == 2 { known = $1; next }
        NR <= inputs + 2 { path[NR - 3] = $0; next }
        $1 == "FT" && $2 < known { for (i = 3; i <= NF; i++) reached[$i]; next }
        $1 == "FT" { places[$2] = $0; by_count[NF] = by_count[NF] " " $2; if (NF > most) most = NF }
        END {
            for (count = most; count > 2; count--) {
                ids = split(by_count[count], id, " ")
                for (n = 1; n <= ids; n++) {
                    split(places[id[n]], place, " ")
                    new = 0
                    for (i = 3; i <= count; i++) new += !(place[i] in reached)
                    if (new < least) continue
                    for (i = 3; i <= count; i++) reached[place[i]]
                    print path[id[n]]
                }
            }
        }' "$work/places" | while IFS= read -r input; do cp "$input" "$corpus"; done
    rm -rf "$work/merged" "$work/places"
}

if [[ -n ${list:-} ]]; then
    targets
    exit 0
fi
locks_agree
[[ -n ${check_lock:-} ]] && exit 0

((${#selected[@]})) || mapfile -t selected < <(targets)
for target in "${selected[@]}"; do
    targets | grep -qx -- "$target" || { echo "no fuzz target $target; there are: $(targets | xargs)" >&2; exit 2; }
done

command -v c++ >/dev/null || { echo 'fuzz: there is no C++ compiler (c++), which libFuzzer needs' >&2; exit 3; }
if [[ $(cargo fuzz --version 2>/dev/null) != "cargo-fuzz $CARGO_FUZZ" ]]; then
    echo "installing cargo-fuzz $CARGO_FUZZ"
    if ! cargo install --quiet cargo-fuzz --locked --version "$CARGO_FUZZ"; then
        echo "fuzz: cargo-fuzz $CARGO_FUZZ cannot be installed" >&2
        exit 3
    fi
fi

# Beside all other builds, so that a cache of those has this one, too.
target_dir=${CARGO_TARGET_DIR:-$repository/target}
kept=$target_dir/fuzz-corpus
findings=$target_dir/fuzz-findings
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$findings"

began=$SECONDS
# Without a sanitizer, because there is nothing unsafe to sanitize and they take a nightly compiler. Many codegen units:
# the build is what a short run takes longest for.
CARGO_TARGET_DIR=$target_dir cargo fuzz build --fuzz-dir tests/fuzz --sanitizer none --codegen-units 16 2>"$work/build" ||
    { cat "$work/build" >&2; exit 1; }
triple=$(rustc -vV | sed -n 's/^host: //p')
echo "built in $((SECONDS - began)) s; seed $seed"

# Files that a target writes are for it alone.
if [[ -d /dev/shm && -w /dev/shm ]]; then
    TMPDIR=$(mktemp -d /dev/shm/coordd-fuzz-XXXXXX)
    export TMPDIR
    trap 'rm -rf "$work" "$TMPDIR"' EXIT
fi

each=$((seconds / ${#selected[@]}))
((each > 0)) || each=1
failed=0
lines=()
for target in "${selected[@]}"; do
    binary=$target_dir/$triple/release/$target
    corpus=$repository/tests/fuzz/corpus/$target
    grown=$work/$target
    [[ -n $keep ]] && grown=$kept/$target
    mkdir -p "$grown"
    log=$work/$target.log
    [[ -n $minimize ]] && add_what_reaches_new_code "$binary" "$corpus" "$grown"
    began=$SECONDS
    verdict=PASS
    # The first directory is the one that grows.
    if ! "$binary" -max_total_time="$each" -seed="$seed" -max_len=$INPUT_BYTES_MAX -timeout=$SECONDS_OF_ONE_MAX \
        -rss_limit_mb=$RSS_LIMIT_MB -print_final_stats=1 -artifact_prefix="$findings/$target-" \
        "$grown" "$corpus" >"$log" 2>&1; then
        verdict=FAIL
        failed=1
        grep -aE 'panicked at|ERROR: |memory allocation|Test unit written' -A2 "$log" | head -20 || true
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(grep -ao 'cov: [0-9]*' "$log" | tail -1 || true)
    inputs=$(grep -ao 'corp: [^ ]*' "$log" | tail -1 || true)
    lines+=("$(printf '%-24s %s  executions %9s  coverage %6s  corpus %12s  %4d s' "$target" "$verdict" \
        "${executions:-?}" "${coverage#cov: }" "${inputs#corp: }" $((SECONDS - began)))")
done
printf '%s\n' "${lines[@]}"
((failed)) && echo "inputs that fail: $findings"
exit $failed
