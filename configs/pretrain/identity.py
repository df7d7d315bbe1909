# SPDX-License-Identifier: Apache-2.0
"""Identity encoder of SubjectWorld: a DINO ViT with 8 px patches at 64 px.

Command to run:
  python -m suti.pretrain.identity \
      --config configs/pretrain/identity.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped encoder; `:tiny` is a few steps, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"
  config.pool = pool.get_config("identity")
  # Half of the pool is enough for scores above 0.95; see the card.
  config.pool.num_subjects = 3072

  config.batch_size = 96
  config.views = 4
  # Of 15: two subjects of one class are the pairs that are hard to tell apart.
  config.classes_per_batch = 4
  config.temperature = 0.1
  config.num_steps = 450
  config.learning_rate = 1e-3
  config.warmup_steps = 60
  config.weight_decay = 0.05
  config.grad_clip = 1.0
  config.ema = 0.998
  config.log_every = 25
  config.checkpoint_every = 150

  config.model = dict(
    model_type="vit",
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=4,
    num_attention_heads=6,
    image_size=64,
    patch_size=8,
    num_channels=3,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    qkv_bias=True,
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 60, 4
    config.batch_size, config.views, config.num_steps = 8, 2, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.model.num_hidden_layers = 1
  return config
