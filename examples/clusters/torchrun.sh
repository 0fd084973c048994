#!/bin/bash
# A host's part of a job that torchrun starts; run it on every host:
#
#   export SHARDGRAD_TOKEN=...                    the same on all hosts, at least 16 characters: openssl rand -base64 32
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=gpu01 ./torchrun.sh --steps 100000
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=gpu01 ./torchrun.sh --steps 100000
#
# torchrun's own store has MASTER_PORT; that of the ranks takes the port after it, or the next.
set -eu

nnodes=${NNODES:-1}
ranks=${RANKS_PER_NODE:-8}
if [ -z "${SHARDGRAD_TOKEN:-}" ]; then
  if [ "$nnodes" -gt 1 ]; then
    echo "$0: set SHARDGRAD_TOKEN, to the same on all hosts" >&2
    exit 2
  fi
  SHARDGRAD_TOKEN=$(head -c 32 /dev/urandom | base64 -w 0)
fi
export SHARDGRAD_TOKEN

# shardgrad run divides the cores of a host among its ranks; torchrun does not
cores=$(nproc)
export SHARDGRAD_NUM_THREADS=${SHARDGRAD_NUM_THREADS:-$((cores > ranks ? cores / ranks : 1))}

exec torchrun --nnodes "$nnodes" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$ranks" \
  --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" --max-restarts "${MAX_RESTARTS:-3}" \
  --no-python node train.js "$@"
