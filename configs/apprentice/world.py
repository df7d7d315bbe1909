# SPDX-License-Identifier: Apache-2.0
"""The apprentice of SubjectWorld: its first lessons, true renders.

Differs from configs/quickstart.py in: starts from the base instead of an
apprentice; learns from `suti.pretrain.examples` (a perfect teacher's examples)
until experts have generated enough; in what it reads of demonstrations; and in
steps, batch, rate and dropout.

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
    init="world_base",
    examples=("runs/pretrain/examples/shards",),
    num_steps=3_000,
    batch_size=16,
    # A constant step of 1e-4 (paper) is for 2.1B parameters that know the
    # world; new layers in a small U-Net want more.
    learning_rate=4e-4,
    joint_dropout=0.05,
    text_dropout=0.1,
    demonstration_dropout=0.1,
    # Demonstrations tell most where there is much noise: docs/results.md.
    log_snr_mean=-2.0,
    warmup_steps=100,
    decay=0.4,
    ema=0.999,
    checkpoint_every=250,
    log_every=50,
  )
  # What is measured to learn soonest: docs/results.md.
  config.method.features, config.method.positions = "self_attention", True
  config.method.encoder_gradient = False  # half the arithmetic of a step
  return config.lock()
