# SPDX-License-Identifier: Apache-2.0
"""The apprentice of SubjectWorld: its first lessons, true renders.

Differs from configs/quickstart.py in: learns from `suti.pretrain.examples` (a
perfect teacher's examples) instead of experts' images, and for longer.

Command to run:
  python -m apprentice.train \
      --config configs/apprentice/world.py --workdir runs/apprentice
Hardware: 2 CPU cores. Before it: suti.pretrain.examples, see docs/results.md.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(arg: str = "") -> ConfigDict:
  """All sections; "tiny" makes the other stages as small as in CI."""
  config = ConfigDict(quickstart.get_config(arg))
  config.unlock()
  config.train.update(
    examples=("runs/pretrain/examples/shards",),
    num_steps=3_000,
    warmup_steps=100,
    ema=0.999,
    checkpoint_every=250,
    log_every=50,
  )
  return config.lock()
