#!/bin/bash
# A run on several machines under Slurm: one process for each GPU, found by jax.distributed. Edit the lines with <- .
#
# sbatch configs/jobs/slurm.sh configs/translation.yaml runs/translation --outer.tasks 256
#
# The run directory must be on a disk that all machines see. Two minutes before the time is over Slurm sends SIGTERM:
# a run that trains saves and ends with code 75, and the job goes back into the queue, to go on where it stopped (the
# evaluation at the end is done anew). Not tried on a cluster yet.
#SBATCH --job-name=fewshot-jax
#SBATCH --nodes=2                  # <- machines
#SBATCH --ntasks-per-node=8        # <- GPUs of a machine
#SBATCH --gpus-per-node=8          # <- the same: each process sees all of them, and jax takes its own
#SBATCH --gpu-bind=none
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00            # <-
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
config=$1 run=$2
shift 2
source .venv/bin/activate          # <- where fewshot-jax is installed

srun --kill-on-bad-exit=0 fewshot-jax train "$config" --run-dir "$run" --distributed "$@"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
