#!/bin/bash
# From images to an evaluated model: jobs that wait for each other (--dependency=afterok), submitted at once.
# shards -> distillation stage 1 -> stage 2 -> semi-supervised stage -> evaluation
#
#   INTERMEDIATE='tile --source ortho/a*.tif --labels ../labels/{stem}.tif --classes configs/datasets/A.yaml' \
#   TARGET='tile --source ortho/b*.tif --labels ../labels/{stem}.tif --classes configs/datasets/B.yaml' \
#   FLIGHT='tile --source flight/*.tif --classes configs/datasets/B.yaml' \
#   SBATCH_PARTITION=gpu NODES=2 GPUS=8 slurm/pipeline.sh data.crop=256
#
# INTERMEDIATE, TARGET  what `python -m shards` makes the labelled sets of, without --out
# FLIGHT                likewise the tiles without labels; default: the target's training tiles that lose their labels
# SPLIT                 how both are split by place: '--by block --block 2048'; LABELLED (880): target tiles with labels
# DATA, OUT             folders of data sets and runs: data/pipeline, runs/pipeline; PARTS (8): tasks of a shard job
# NODES, GPUS           nodes of a training job (1), GPUs that it asks for on each (none)
# STAGE1, STAGE2, SSL   more for the command line of one stage, cut at blanks; what stands behind the script's name goes
#                       to all three as it is
# TEACHERS_PER_NODE, NPROC, RESTARTS as in ssl.sbatch and kd.sbatch; SBATCH_PARTITION, SBATCH_ACCOUNT, ... as for sbatch
# Started again, it goes on: what has ended is recognised.

case ${1:-} in -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;; esac
set -euf -o pipefail
cd "$(dirname "$0")/.."
: "${INTERMEDIATE:?see the head of $0}" "${TARGET:?see the head of $0}"
DATA=${DATA:-data/pipeline} OUT=${OUT:-runs/pipeline} SPLIT=${SPLIT:---by block --block 2048}

job() { # job NAME AFTER ARGUMENTS: submit, say so, print the job's id
  local id
  id=$(sbatch --parsable --job-name="$1" ${2:+--dependency=afterok:$2 --kill-on-invalid-dep=yes} "${@:3}")
  echo "$1: job ${id%%;*}${2:+ after $2}" >&2 && echo "${id%%;*}"
}
build() { # build NAME ARGUMENTS: shards of one data set, and from its parts the index
  local parts
  parts=$(job "$1-parts" "" --array="1-${PARTS:-8}" slurm/shards.sbatch $2 --out "$DATA/$1/all")
  job "$1-index" "$parts" --array=1 slurm/shards.sbatch index "$DATA/$1/all"
}
divide() { # divide NAME AFTER ARGUMENTS: train, val, test by place
  job "$1-split" "$2" --array=1 slurm/shards.sbatch split --source "$DATA/$1/all" --out "$DATA/$1" $SPLIT "${@:3}"
}
train() { # train NAME AFTER SCRIPT ARGUMENTS
  RUN=$OUT/$1 job "$1" "$2" --nodes="${NODES:-1}" ${GPUS:+--gpus-per-node=$GPUS} "${@:3}"
}

i=$(divide intermediate "$(build intermediate "$INTERMEDIATE")")
t=$(divide target "$(build target "$TARGET")" --labelled "${LABELLED:-880}")
f=$t unlabelled=$DATA/target/unlabelled
[ -z "${FLIGHT:-}" ] || { f=$t:$(build flight "$FLIGHT"); unlabelled=$DATA/flight/all; }
labelled=("data.labelled=$DATA/target/labelled" "data.val=$DATA/target/val")
one=$(train stage1 "$i" slurm/kd.sbatch data.labelled="$DATA/intermediate/train" data.val="$DATA/intermediate/val" \
  ${STAGE1:-} "$@")
two=$(train stage2 "$one:$t" slurm/kd.sbatch "${labelled[@]}" kd.source="$OUT/stage1/model" \
  kd.source_data="$DATA/intermediate/train" ${STAGE2:-} "$@")
ssl=$(START=$OUT/stage2/model train ssl "$two:$f" slurm/ssl.sbatch "${labelled[@]}" data.unlabelled="$unlabelled" \
  ${SSL:-} "$@")
quoted() { printf " '%s'" "${@//\'/\'\\\'\'}"; } # for the shell that runs the job
evaluate=$(quoted model="$OUT/ssl/model" data="$DATA/target/test" out="$OUT/results.json" report="$OUT/report.html")
job evaluate "$ssl" --exclusive --mem=0 ${GPUS:+--gpus-per-node=1} --output=%x-%j.log --wrap "
  PATH=\$PWD/.venv/bin:\$PATH
  python launch/evaluate.py$evaluate"
echo "logs: NAME-ID.log here; curves: tensorboard --logdir $OUT; at the end $OUT/results.json and report.html" >&2
