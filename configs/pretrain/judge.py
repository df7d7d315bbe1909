# SPDX-License-Identifier: Apache-2.0
"""The judge of SubjectWorld: a ViT with heads, which trains nothing else.

Command to run:
  python -m suti.pretrain.judge \
      --config configs/pretrain/judge.py --workdir runs/pretrain
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped judge; `:tiny` is a few steps, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64
  config.dtype = "float32"

  # Subjects that no other training has seen, in groups of one class and similar
  # colours. A group's subjects are all rendered in the same scenes.
  config.pool = ml_collections.ConfigDict()
  config.pool.split = "train"
  config.pool.first_subject = 950_000_000
  config.pool.num_subjects = 2560
  config.pool.group_size = 8
  config.pool.num_groups = 170  # of about 310; the first ones have all classes
  config.pool.scenes_each = 3
  config.pool.shots_each = 2  # in each scene, of other camera and light
  # Share of scenes in a style. 0 leaves the question of styles unlearned.
  config.pool.styled = 0.0
  config.pool.seed = 0

  config.batch_size = 64  # groups x their subjects x 2 pictures
  # Share of groups whose pairs of pictures show one scene: there, what is
  # behind the subject tells nothing. In the others they show two.
  config.same_scene = 0.6
  config.temperature = 0.08
  # Of the losses beside the contrastive one.
  config.weights = dict(questions=0.25, shape=0.5, softness=0.1)
  config.num_shapes = 32  # principal components of what a subject is built of
  config.num_steps = 600
  config.learning_rate = 1e-3
  config.warmup_steps = 50
  config.weight_decay = 0.05
  config.grad_clip = 1.0
  config.ema = 0.99
  config.log_every = 20
  config.checkpoint_every = 50

  config.embedding = 128
  config.model = dict(
    architectures=("ViTModel",),
    model_type="vit",
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=64,
    patch_size=8,
    num_channels=3,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    qkv_bias=True,
  )
  if arg == "tiny":
    config.pool.num_subjects, config.pool.group_size = 40, 2
    config.pool.scenes_each, config.pool.num_groups = 2, 12
    config.pool.styled = 0.5
    config.batch_size, config.num_steps = 8, 4
    config.warmup_steps, config.log_every, config.checkpoint_every = 1, 1, 2
    config.num_shapes = 2
    config.model.update(
      hidden_size=24, num_attention_heads=2, num_hidden_layers=1
    )
  return config
