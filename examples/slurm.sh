#!/usr/bin/env bash
#SBATCH --job-name=promptkit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# From the repository: sbatch examples/slurm.sh --data /data/imagenet --out runs/imagenet
# One task per machine; torchrun starts a process for each of its GPUs.
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts%%$'\n'*} NODES=$SLURM_NNODES GPUS=${SLURM_GPUS_ON_NODE:-8}
export OMP_NUM_THREADS=1

srun bash -c 'NODE_RANK=$SLURM_PROCID exec bash examples/multi-node.sh "$@"' multi-node "$@"
