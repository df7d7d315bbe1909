# SPDX-License-Identifier: Apache-2.0
"""The judge of SubjectWorld: a dictionary of patches with linear heads.

Command to run:
  python -m suti.pretrain.judge \
      --config configs/pretrain/judge.py --workdir runs/pretrain
"""

import ml_collections

from configs.pretrain import pool


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The shipped judge; `:tiny` learns from few pictures, for tests."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.size_px = 64

  # Subjects that no other training has seen, in groups of one class and similar
  # colours. A group's subjects are all rendered in the same scenes.
  config.pool = ml_collections.ConfigDict()
  config.pool.name = "judges"
  config.pool.split = "train"
  config.pool.start = pool.START["judges"]
  config.pool.num_subjects = 2560
  config.pool.group_size = 8
  config.pool.num_groups = 170  # of about 310; the first ones have all classes
  config.pool.scenes_each = 3
  config.pool.shots_each = 2  # in each scene, of other camera and light
  # Share of scenes in a style. 0 leaves the question of styles unlearned.
  config.pool.styled = 0.0
  config.pool.seed = 0

  config.model = dict(
    architectures=("PatchDictionary",),
    model_type="patch_dictionary",
    image_size=64,
    num_channels=3,
    patch_size=6,
    strides=(2, 1),  # of the whole picture, and of half of it
    num_words=128,
    grid=4,
    threshold=0.25,
  )
  config.dictionary = dict(num_images=1000, num_patches=60_000, rounds=10)
  config.components = 800  # in which the heads are fitted
  config.embedding = 64
  config.within = 0.1  # ridge on the scatter within subjects
  config.ridge = 0.1  # of the questions
  config.num_features = 128
  if arg == "tiny":
    config.pool.num_subjects, config.pool.group_size = 40, 2
    config.pool.scenes_each, config.pool.num_groups = 2, 8
    config.pool.styled = 0.5
    config.model.update(num_words=4, grid=2)
    config.dictionary.update(num_images=16, num_patches=400, rounds=2)
    config.components, config.num_features, config.embedding = 8, 4, 4
  return config
