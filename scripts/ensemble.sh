#!/usr/bin/env bash
# An ensemble on this machine: build it, start it, stop it, break it.
set -euo pipefail
called_as=$0
called_from=$PWD
cd "$(dirname "$0")/.."
root=$PWD

usage() {
    cat <<'TEXT'
Usage: scripts/ensemble.sh [--dir DIR] [--base-port PORT] [--nodes N] [--debug] [--no-build] COMMAND

  up             build in release, start all nodes, wait until they serve; nodes that run are left alone
  down           stop all nodes (SIGTERM: leadership is handed over, writes under way are answered)
  status         one line a node
  kill N         kill -9 node N
  start N        start node N
  logs N         follow the log of node N
  wipe           stop all nodes and delete their data

  --dir DIR         where data and logs are; default data in this checkout, or $COORDD_ENSEMBLE_DIR
  --base-port PORT  clients connect to PORT+1, PORT+2, ..., peers to PORT+101, ...; default 7400, or $COORDD_BASE_PORT
  --nodes N         how many; default 3
  --debug           build and run without optimisation
  --no-build        run what was built before
  Options stand before or behind the command. A directory has one ensemble, and remembers its ports and how many nodes it has.
  Options of coordd itself: in the environment, as COORDD_*.

Exit code: 0 it is done; 1 it failed, or there was nothing to do; 2 the command line is wrong.
TEXT
}

fail() {
    echo "ensemble.sh: $1" >&2
    exit "${2:-1}"
}

refuse() {
    echo "ensemble.sh: $1" >&2
    usage >&2
    exit 2
}

dir=${COORDD_ENSEMBLE_DIR:-}
base=${COORDD_BASE_PORT:-}
nodes=
profile=release
build=yes
words=()
while (($# > 0)); do
    case $1 in
        --dir | --base-port | --nodes)
            [[ -n ${2:-} ]] || refuse "$1 needs a value"
            set -- "$1=$2" "${@:3}"
            continue
            ;;
        --dir=?*) dir=${1#*=} ;;
        --base-port=?*) base=${1#*=} ;;
        --nodes=?*) nodes=${1#*=} ;;
        --debug) profile=debug ;;
        --no-build) build=no ;;
        --help | -h)
            usage
            exit 0
            ;;
        -*) refuse "there is no option $1" ;;
        *) words+=("$1") ;;
    esac
    shift
done
command=${words[0]:-}
node=${words[1]:-}
case $command in
    up | down | status | wipe) ((${#words[@]} == 1)) || refuse "$command takes no argument, and got $node" ;;
    kill | start | logs) ((${#words[@]} == 2)) || refuse "$command takes the number of one node" ;;
    '') refuse "a command is missing" ;;
    *) refuse "there is no command $command" ;;
esac

# Relative to where the script was called, not to where it works.
case $dir in
    '') dir=$root/data ;;
    /*) ;;
    *) dir=$called_from/${dir#./} ;;
esac
bin=${CARGO_TARGET_DIR:-target}/$profile
[[ $bin == /* ]] || bin=$root/$bin

# What the ensemble in the directory was started with counts, and nothing else: with other ports its nodes would not be found, and
# two ensembles would write to the same logs.
remembered=$dir/ensemble.conf
if [[ -f $remembered ]]; then
    { read -r known_base && read -r known_nodes; } <"$remembered" || fail "$remembered is damaged; delete it"
    : "${base:=$known_base}" "${nodes:=$known_nodes}"
    if [[ $base != "$known_base" || $nodes != "$known_nodes" ]]; then
        fail "$dir has an ensemble of $known_nodes nodes at --base-port $known_base; give this one its own --dir, or wipe that one" 2
    fi
fi
: "${base:=7400}" "${nodes:=3}"
[[ $base =~ ^[0-9]{4,5}$ && $base -ge 1024 && $base -le 65000 ]] || refuse "--base-port is from 1024 to 65000, not $base"
[[ $nodes =~ ^[1-9]$ ]] || refuse "--nodes is from 1 to 9, not $nodes"
[[ -z $node || ($node =~ ^[1-9]$ && $node -le $nodes) ]] || refuse "there is no node $node: nodes are 1 to $nodes"

client_address() { echo "127.0.0.1:$((base + $1))"; }
peer_address() { echo "127.0.0.1:$((base + 100 + $1))"; }
pid_file() { echo "$dir/node-$1.pid"; }
log_file() { echo "$dir/node-$1.log"; }

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

# How this script is called for this ensemble.
this_ensemble() {
    local call=("$called_as")
    [[ $dir == "$root/data" ]] || call+=(--dir "$dir")
    [[ $base == 7400 ]] || call+=(--base-port "$base")
    [[ $nodes == 3 ]] || call+=(--nodes "$nodes")
    [[ $profile == release ]] || call+=(--debug)
    printf '%q ' "${call[@]}"
}

# The process of a node, if it runs. Process ids are used again, so it has to be coordd with this directory; and a process that has
# ended stays in the table, as a zombie, until its parent has looked.
running() {
    local pid stat
    pid=$(cat "$(pid_file "$1")" 2>/dev/null) || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    [[ $stat == "$pid (coordd) "[!ZX]* ]] || return 1
    tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$dir/node-$1" || return 1
    echo "$pid"
}

count_running() {
    local id count=0
    for ((id = 1; id <= nodes; id++)); do
        if running "$id" >/dev/null; then count=$((count + 1)); fi
    done
    echo "$count"
}

build() {
    if [[ $build == yes ]]; then
        local flags=()
        [[ $profile == debug ]] || flags=(--release)
        cargo build "${flags[@]}" -p coordd-server -p coordctl
    fi
    [[ -x $bin/coordd && -x $bin/coordctl ]] || fail "$bin has no coordd and coordctl; leave out --no-build"
}

# Fails if the node runs.
start() {
    local id=$1
    if running "$id" >/dev/null; then return 1; fi
    mkdir -p "$dir"
    # Nobody may find it half written: nodes are started beside each other.
    if [[ ! -f $remembered ]]; then
        printf '%s\n' "$base" "$nodes" >"$remembered.$BASHPID"
        mv -- "$remembered.$BASHPID" "$remembered"
    fi
    # Of its own session: Ctrl-C in this terminal is not for the ensemble.
    env -u COORDD_ENSEMBLE_DIR -u COORDD_BASE_PORT setsid "$bin/coordd" --id "$id" --ensemble "$(ensemble)" \
        --listen "$(client_address "$id")" --data-dir "$dir/node-$id" >>"$(log_file "$id")" 2>&1 </dev/null &
    echo $! >"$(pid_file "$id")"
    # Until it is coordd, it does not pass for running, and who looked would start a second one.
    while [[ $(cat "/proc/$!/stat" 2>/dev/null) == *") "[!ZX]* ]] && ! running "$id" >/dev/null; do sleep 0.01; done
}

stop() {
    local id=$1 signal=$2 pid
    pid=$(running "$id") || return 0
    kill "-$signal" "$pid" 2>/dev/null || true
    # A node that stops cleanly has up to ten seconds of work to hand over.
    for ((i = 0; i < 150; i++)); do
        running "$id" >/dev/null || { rm -f "$(pid_file "$id")"; return 0; }
        sleep 0.1
    done
    echo "node $id (process $pid) does not stop" >&2
    return 1
}

# All at the same time: the last two cannot hand anything over.
stop_all() {
    local id waits=() failed=0
    for ((id = 1; id <= nodes; id++)); do
        stop "$id" "$1" &
        waits+=($!)
    done
    for id in "${waits[@]}"; do wait "$id" || failed=1; done
    return "$failed"
}

tell_stopped() {
    echo "node $1 has stopped; the end of $(log_file "$1"):" >&2
    tail -n 5 "$(log_file "$1")" >&2
}

wait_until_serving() {
    local id deadline=$((SECONDS + 60))
    for ((id = 1; id <= nodes; id++)); do
        until "$bin/coordctl" --endpoints "$(client_address "$id")" health >/dev/null 2>&1; do
            running "$id" >/dev/null || { tell_stopped "$id"; return 1; }
            if ((SECONDS > deadline)); then
                echo "node $id does not serve; see $(log_file "$id")" >&2
                return 1
            fi
            sleep 0.05
        done
        # Something else may answer at its address.
        running "$id" >/dev/null || { tell_stopped "$id"; return 1; }
    done
}

case $command in
    up)
        build
        ran=$(count_running)
        for ((id = 1; id <= nodes; id++)); do start "$id" || true; done
        wait_until_serving
        "$bin/coordctl" --endpoints "$(endpoints)" status
        ((ran < nodes)) || printf '\nAll %s nodes ran before; nothing was started.\n' "$nodes"
        cat <<TEXT

The ensemble serves. What next:
  export COORDCTL_ENDPOINTS=$(endpoints)
  alias coordctl=$(printf %q "$bin/coordctl")
  coordctl create /hello world
  coordctl get /hello
  $(this_ensemble)kill 1     # and see that it goes on
  $(this_ensemble)start 1
  $(this_ensemble)down
TEXT
        ;;
    down)
        (($(count_running) > 0)) || fail "no node runs in $dir"
        stop_all TERM
        ;;
    status)
        [[ -d $dir ]] || fail "there is no ensemble in $dir"
        for ((id = 1; id <= nodes; id++)); do
            if pid=$(running "$id"); then echo "node $id: process $pid, clients $(client_address "$id")"
            else echo "node $id: down"; fi
        done
        (($(count_running) > 0)) || fail "no node runs in $dir"
        if [[ -x $bin/coordctl ]]; then "$bin/coordctl" --endpoints "$(endpoints)" status; fi
        ;;
    kill)
        running "$node" >/dev/null || fail "node $node does not run in $dir"
        stop "$node" KILL
        ;;
    start)
        [[ -x $bin/coordd ]] || build
        # One that somebody has just killed needs a moment to be gone.
        for ((try = 0; try < 10; try++)); do running "$node" >/dev/null || break; sleep 0.1; done
        start "$node" || fail "node $node runs already"
        running "$node" >/dev/null || { tell_stopped "$node"; exit 1; }
        ;;
    logs)
        [[ -f $(log_file "$node") ]] || fail "node $node has no log in $dir"
        exec tail -n 100 -F "$(log_file "$node")"
        ;;
    wipe)
        [[ -d $dir ]] || fail "there is nothing to delete in $dir"
        stop_all KILL
        deleted=no
        for ((id = 1; id <= nodes; id++)); do
            for path in "$dir/node-$id" "$(log_file "$id")" "$(pid_file "$id")"; do
                [[ ! -e $path ]] || { rm -rf -- "$path"; deleted=yes; }
            done
        done
        rm -f -- "$remembered"
        [[ $deleted == yes ]] || fail "there was nothing to delete in $dir"
        ;;
esac
