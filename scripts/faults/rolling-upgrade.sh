#!/usr/bin/env bash
# Upgrades an ensemble of an older build, one node after the other, while clients work, and checks what they
# were told. The scenario rolling-upgrade of coordfault, with an older build to begin with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# The last build before apply rules had a version.
old_commit=62ff85c

usage() {
    cat <<TEXT
Usage: scripts/faults/rolling-upgrade.sh [--old-bin DIR] [--no-build] [--debug] [OPTION]...

  --old-bin DIR  where the coordd is that the nodes begin with; default: $old_commit, built below target/
  --no-build     run the newer build that is there
  --debug        build and run the newer build without optimisation
  --help         this

All other options are those of scripts/faults/rolling-restart.sh. The last line is the summary.
TEXT
}

old_bin=
build=yes
profile=release
options=()
while (($# > 0)); do
    case $1 in
        --old-bin) old_bin=${2:?--old-bin needs a directory}; shift ;;
        --no-build) build=no ;;
        --debug) profile=debug ;;
        --help) usage; exit 0 ;;
        *) options+=("$1") ;;
    esac
    shift
done
target=${CARGO_TARGET_DIR:-$PWD/target}
if [[ -z $old_bin ]]; then
    old_bin=$target/upgrade-from/$old_commit
    if [[ ! -x $old_bin/coordd ]]; then
        tree=$(mktemp -d)
        trap 'git worktree remove --force "$tree/source" || true; rm -rf "$tree"' EXIT
        git worktree add --quiet --detach "$tree/source" "$old_commit"
        (cd "$tree/source" && cargo build --quiet --release --target-dir "$tree/target" -p coordd-server)
        mkdir -p "$old_bin"
        cp "$tree/target/release/coordd" "$old_bin/"
        git worktree remove --force "$tree/source"
        rm -rf "$tree"
        trap - EXIT
    fi
fi
[[ -x $old_bin/coordd ]] || { echo "no coordd in $old_bin" >&2; exit 2; }
if [[ $build == yes ]]; then
    flags=()
    [[ $profile == release ]] && flags=(--release)
    cargo build --quiet "${flags[@]}" -p coordfault -p coordd-server
fi
exec "$target/$profile/coordfault" run rolling-upgrade --old-coordd "$old_bin/coordd" "${options[@]}"
