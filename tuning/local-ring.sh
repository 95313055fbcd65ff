#!/usr/bin/env bash
# A ring of N nodes on this machine, to play with: tuning/local-ring.sh [N] [options of pbcache, the same for all nodes]
#
#   tuning/local-ring.sh 3 --redundancy 2
#
# Node i listens on 127.0.0.i, port 11211 (RING_PORT changes it). Ctrl-C, or the end of input, ends them all. Lines of a node begin with
# its name.
# PBCACHE names the program; without it, it is built.
set -euo pipefail

nodes=${1:-3}
[[ $nodes =~ ^[1-9][0-9]?$ ]] || { echo "usage: tuning/local-ring.sh [NODES, 1 to 99] [options of pbcache]" >&2; exit 2; }
shift || true
port=${RING_PORT:-11211}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PBCACHE:-} ]]; then
    cargo build --release --manifest-path "$here/Cargo.toml"
    PBCACHE=${CARGO_TARGET_DIR:-$here/target}/release/pbcache
fi

ring=()
for ((node = 1; node <= nodes; node++)); do
    ring+=(--ringnode "127.0.0.$node:$port")
done
pids=()
stop() {
    trap - EXIT INT TERM
    kill "${pids[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT INT TERM
for ((node = 1; node <= nodes; node++)); do
    hint=()
    ((node == 1)) || hint=(--disable_tuning_hint) # it is one machine
    "$PBCACHE" --cores 1 --memory_size 64 --ip "127.0.0.$node" --port "$port" "${hint[@]}" "${ring[@]}" "$@" \
        > >(sed --unbuffered "s/^/node $node: /") 2>&1 &
    pids+=($!)
    echo "node $node: 127.0.0.$node:$port, process $!"
done
echo "Ctrl-C ends them. Try: printf 'stats ring\\r\\nquit\\r\\n' | (exec 3<>/dev/tcp/127.0.0.1/$port; cat >&3; cat <&3)"
# Whoever kills one of them wants to see the others go on.
if [[ -t 0 ]]; then
    while sleep 3600; do :; done
else
    cat >/dev/null
fi
