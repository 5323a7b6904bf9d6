#!/usr/bin/env bash
# On every machine: NODES=2 NODE_RANK=0 MASTER_ADDR=first.machine examples/multi-node.sh [more options of promptkit train]
# GPUS is the number of processes on this machine; without a GPU, they train on the CPU.
set -euo pipefail

exec torchrun \
    --nnodes "${NODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "${GPUS:-8}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    -m promptkit train --config "${CONFIG:-examples/imagenet.toml}" "$@"
