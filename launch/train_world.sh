#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes all shipped models of SubjectWorld from nothing: an environment, then
# each training in its order, then their exams and cards.
#
#   bash launch/train_world.sh         about a day on 2 cores; less with more
#   bash launch/train_world.sh tiny    a few steps of each, and nothing shipped
#
# Killed anywhere and started again, it goes on from where it stopped. All is
# kept in runs/world; $SUTI_WORKDIR puts it elsewhere. What is finished replaces
# the models of suti/pretrained, at the end and whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare

size="${1:-}"
tiny="${size:+:$size}"
work="${SUTI_WORKDIR:-runs/world${size:+-$size}}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"

# train NAME ARGUMENT...: one training of suti.pretrain.
train() {
  local name="$1"
  shift
  echo "=== $name"
  "$VENV/bin/python" -m "suti.pretrain.$name" \
    --config "configs/pretrain/$name.py$tiny" --workdir "$work" "$@"
}

models=(
  --config.backbone="$work/text_to_image/model"
  --config.clip="$work/clip/model"
  --config.identity="$work/identity/model"
  --config.judge="$work/judge/model"
)
# What judges, filters and conditions are three trainings, on other subjects.
train clip
train identity
train judge
train text_to_image
train examples --config.clip="$work/clip/model"
short=()
if [[ -n "$size" ]]; then
  short=(
    --config.train.num_steps=4 --config.train.warmup_steps=1
    --config.train.checkpoint_every=2 --config.train.log_every=1
  )
fi
echo "=== apprentice"
"$VENV/bin/python" -m apprentice.train \
  --config "configs/apprentice/world.py$tiny" --workdir "$work/apprentice" \
  "${models[@]}" --config.train.init="$work/text_to_image/model" \
  --config.train.examples="('$work/examples/shards',)" \
  "${short[@]}"
if [[ -n "$size" ]]; then
  echo "Done: models of a few steps are in $work."
  exit
fi

echo "=== the benchmark"
"$VENV/bin/suti" run --config configs/evaluation/dreambench.py \
  --workdir "$work/apprentice/dreambench" "${models[@]}" \
  --config.train.init="$work/apprentice/apprentice/train/model"
train ship
"$VENV/bin/python" -m apprentice.ship --config configs/apprentice/world.py \
  --workdir "$work/apprentice"
echo "Done: see the cards, README.md of each folder of suti/pretrained."
