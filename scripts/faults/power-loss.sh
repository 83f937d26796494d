#!/usr/bin/env bash
# Takes the power from the store of one node, again and again, in every way that its unsynced writes allow: nothing that was
# acknowledged may be gone, and no node may refuse to start. The test of the same name, for longer and with more than one seed.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: power-loss.sh [--seed S] [--rounds N] [--seconds T] [--every]

  --seed S      where the lives and the worlds come from; by default, the time
  --rounds N    disks from their first start on; by default, as many as there is time for
  --seconds T   no new crash after this (default 300)
  --every       at every moment of each life, instead of at some of them

In the environment: COORDD_POWER_LOSS_SIZES=node takes files as large as a node's (slower by far); TMPDIR, where the disks are
(default /dev/shm if there is one).
Prints one line with the figures at the end. Exits with 1 after a failure, and says where the disk is that it was found on.
TEXT
}

seed=$(date +%s) rounds=1000000 seconds=300 every=
while [[ $# -gt 0 ]]; do
    case $1 in
        --seed) seed=$2; shift 2 ;;
        --rounds) rounds=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --every) every=1; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/../.."
if [[ -z ${TMPDIR:-} && -d /dev/shm && -w /dev/shm ]]; then
    export TMPDIR=/dev/shm
fi
command -v strace >/dev/null || { echo "this needs strace: apt-get install -y strace" >&2; exit 2; }
kept=$(mktemp -d "${TMPDIR:-/tmp}/power-loss.XXXXXX")
log=$kept/log

cargo build --quiet --release -p coordd-raft --examples
result=PASS
COORDD_TESTS_SEED=$seed COORDD_POWER_LOSS_ROUNDS=$rounds COORDD_POWER_LOSS_SECONDS=$seconds COORDD_POWER_LOSS_KEEP=$kept \
    COORDD_POWER_LOSS_EVERY=$every \
    cargo test --quiet --release -p coordd-raft --test it -- --exact --nocapture \
    power_loss::everything_acknowledged_survives_a_loss_of_power >"$log" 2>&1 || result=FAIL

figures=$(grep -E '^rounds=' "$log" | tail -n 1 || true)
if [[ $result == PASS ]]; then
    rm -r "$kept"
else
    grep -E '^(refused|LOST|the disk is kept)|panicked' -A1 "$log" >&2 || tail -n 20 "$log" >&2
    echo "kept: $kept; again: scripts/faults/power-loss.sh --seed $seed" >&2
fi
printf '%-19s %s  %s\n' power-loss "$result" "${figures:-seed=$seed}"
[[ $result == PASS ]]
