#!/usr/bin/env bash
# A three-node ensemble on this machine: build it, start it, stop it, break it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/ensemble.sh [--dir DIR] [--base-port PORT] [--nodes N] COMMAND

  up             build in release, start all nodes, wait until they serve; harmless when they run
  down           stop all nodes (SIGTERM: leadership is handed over, writes under way are answered)
  status         one line a node
  kill N         kill -9 node N
  start N        start node N
  logs N         follow the log of node N
  wipe           stop all nodes and delete their data

  --dir DIR         where data and logs are; default ./data, or $COORDD_ENSEMBLE_DIR
  --base-port PORT  clients connect to PORT+1, PORT+2, ..., peers to PORT+101, ...; default 7400, or $COORDD_BASE_PORT
  --nodes N         how many; default 3
  --debug           build and run without optimisation
  --no-build        run what was built before
  Options of coordd itself: in the environment, as COORDD_*.
TEXT
}

dir=${COORDD_ENSEMBLE_DIR:-./data}
base=${COORDD_BASE_PORT:-7400}
nodes=3
profile=release
build=yes
while [[ ${1:-} == --* ]]; do
    case $1 in
        --dir) dir=${2:?--dir needs a directory}; shift 2 ;;
        --base-port) base=${2:?--base-port needs a port}; shift 2 ;;
        --nodes) nodes=${2:?--nodes needs a number}; shift 2 ;;
        --debug) profile=debug; shift ;;
        --no-build) build=no; shift ;;
        --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
[[ $base =~ ^[0-9]+$ && $base -ge 1024 && $base -le 65000 ]] || { echo "--base-port: from 1024 to 65000" >&2; exit 2; }
[[ $nodes =~ ^[1-9]$ ]] || { echo "--nodes: from 1 to 9" >&2; exit 2; }

bin=${CARGO_TARGET_DIR:-target}/$profile
client_address() { echo "127.0.0.1:$((base + $1))"; }
peer_address() { echo "127.0.0.1:$((base + 100 + $1))"; }
pid_file() { echo "$dir/node-$1.pid"; }

ensemble() {
    local id list=()
    for ((id = 1; id <= nodes; id++)); do list+=("$id=$(peer_address "$id")"); done
    (IFS=,; echo "${list[*]}")
}

endpoints() {
    local id list=()
    for ((id = 1; id <= nodes; id++)); do list+=("$(client_address "$id")"); done
    (IFS=,; echo "${list[*]}")
}

# The process of a node, if it runs. The name is compared because process ids are used again.
running() {
    local pid
    pid=$(cat "$(pid_file "$1")" 2>/dev/null) || return 1
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == coordd ]] || return 1
    echo "$pid"
}

build() {
    [[ $build == yes ]] || return 0
    local flags=()
    [[ $profile == release ]] && flags=(--release)
    cargo build --quiet "${flags[@]}" -p coordd-server -p coordctl
}

start() {
    local id=$1
    running "$id" >/dev/null && return
    mkdir -p "$dir"
    # Of its own session: Ctrl-C in this terminal is not for the ensemble.
    setsid "$bin/coordd" --id "$id" --ensemble "$(ensemble)" --listen "$(client_address "$id")" \
        --data-dir "$dir/node-$id" >>"$dir/node-$id.log" 2>&1 </dev/null &
    echo $! >"$(pid_file "$id")"
    # Until it is coordd, it does not pass for running, and who looked would start a second one.
    while kill -0 $! 2>/dev/null && ! running "$id" >/dev/null; do sleep 0.01; done
}

stop() {
    local id=$1 signal=$2 pid
    pid=$(running "$id") || return 0
    kill "-$signal" "$pid"
    # A node that stops cleanly has up to ten seconds of work to hand over.
    for ((i = 0; i < 150; i++)); do
        running "$id" >/dev/null || { rm -f "$(pid_file "$id")"; return 0; }
        sleep 0.1
    done
    echo "node $id (process $pid) does not stop" >&2
    return 1
}

wait_until_serving() {
    local id deadline=$((SECONDS + 60))
    for ((id = 1; id <= nodes; id++)); do
        until "$bin/coordctl" --endpoints "$(client_address "$id")" health >/dev/null 2>&1; do
            if ! running "$id" >/dev/null; then
                echo "node $id has stopped:" >&2
                tail -n 5 "$dir/node-$id.log" >&2
                return 1
            fi
            if ((SECONDS > deadline)); then
                echo "node $id does not serve; see $dir/node-$id.log" >&2
                return 1
            fi
            sleep 0.05
        done
    done
}

valid_node() {
    [[ ${1:-} =~ ^[1-9]$ && $1 -le $nodes ]] || { echo "which node? 1 to $nodes" >&2; exit 2; }
}

case ${1:-} in
    up)
        build
        for ((id = 1; id <= nodes; id++)); do start "$id"; done
        wait_until_serving
        "$bin/coordctl" --endpoints "$(endpoints)" status
        cat <<TEXT

The ensemble serves. What next:
  export COORDCTL_ENDPOINTS=$(endpoints)
  alias coordctl=$bin/coordctl
  coordctl create /hello world
  coordctl get /hello
  scripts/ensemble.sh kill 1     # and see that it goes on
  scripts/ensemble.sh down
TEXT
        ;;
    down)
        # All at the same time: the last two cannot hand anything over.
        for ((id = 1; id <= nodes; id++)); do stop "$id" TERM & done
        wait
        ;;
    status)
        for ((id = 1; id <= nodes; id++)); do
            if pid=$(running "$id"); then echo "node $id: process $pid, clients $(client_address "$id")"
            else echo "node $id: down"; fi
        done
        [[ -x $bin/coordctl ]] && "$bin/coordctl" --endpoints "$(endpoints)" status
        ;;
    kill) valid_node "${2:-}"; stop "$2" KILL ;;
    start)
        valid_node "${2:-}"
        [[ -x $bin/coordd ]] || build
        start "$2"
        ;;
    logs) valid_node "${2:-}"; exec tail -n 100 -F "$dir/node-$2.log" ;;
    wipe)
        for ((id = 1; id <= nodes; id++)); do stop "$id" KILL; done
        for ((id = 1; id <= nodes; id++)); do rm -rf "$dir/node-$id" "$dir/node-$id.log" "$(pid_file "$id")"; done
        ;;
    *) usage >&2; exit 2 ;;
esac
