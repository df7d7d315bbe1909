# SPDX-License-Identifier: Apache-2.0
"""CLIP of SubjectWorld: ViT with 8 px patches at 64 px, 4 layers a tower.

Command to run:
  python -m suti.pretrain.clip \
      --config configs/pretrain/clip.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped CLIP; `:tiny` is a few steps on a few pictures, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"
  config.pool = pool.get_config("clip")
  # Half of the pool is enough for scores above 0.95; see the card.
  config.pool.num_subjects = 3072
  config.detailed = 0.5

  config.batch_size = 96
  config.num_steps = 800
  config.learning_rate = 1e-3
  config.warmup_steps = 100
  config.weight_decay = 0.05
  config.grad_clip = 1.0
  config.ema = 0.998
  config.log_every = 25
  config.checkpoint_every = 200

  width, layers = 192, 4
  config.model = dict(
    model_type="clip",
    projection_dim=width,
    logit_scale_init_value=2.6592,
    text_config=dict(
      hidden_size=160,
      intermediate_size=640,
      num_hidden_layers=3,
      num_attention_heads=5,
      max_position_embeddings=32,
      vocab_size=1024,
      hidden_act="gelu",
      layer_norm_eps=1e-5,
      bos_token_id=0,
      eos_token_id=1,
      pad_token_id=1,
      projection_dim=width,
    ),
    vision_config=dict(
      hidden_size=width,
      intermediate_size=4 * width,
      num_hidden_layers=layers,
      num_attention_heads=6,
      image_size=64,
      patch_size=8,
      num_channels=3,
      hidden_act="gelu",
      layer_norm_eps=1e-5,
      projection_dim=width,
    ),
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.shots_each = 32, 4
    config.batch_size, config.num_steps = 16, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.model.vision_config.num_hidden_layers = 1
    config.model.text_config.num_hidden_layers = 1
  return config
