# SPDX-License-Identifier: Apache-2.0
"""The pictures a pretraining learns from: rendered once, 1.2 GB on disk."""

import ml_collections

# First subject of each pool. They share none, nor does the web that experts are
# mined from: suti/world/ranges.py, which refuses others.
START = {
  "text_to_image": 900_000_000,
  "clip": 910_000_000,
  "identity": 920_000_000,
  "examples": 930_000_000,
  "segmenter": 940_000_000,
  "judges": 950_000_000,
}


def get_config(name: str) -> ml_collections.ConfigDict:
  """Which pictures of SubjectWorld's training subjects to render.

  Args:
    name: of the pool, see `START`.
  """
  config = ml_collections.ConfigDict()
  config.name = name
  config.split = "train"
  config.start = START[name]
  # Many subjects, not many pictures each: identity is learned from subjects.
  config.num_subjects = 6000
  config.shots_each = 16
  # Plain backdrops are what web shops show, and what attribute templates use.
  config.studio = 0.1
  # Of a group's 25 templates: all | seen (20) | held_out (5), which are
  # suti/world/held_out.py's.
  config.templates = "all"
  # Share of pictures of a place, an outfit, a look together, two of them; never
  # the pairs that are held out. The shipped CLIP, identity encoder and judge
  # saw none.
  config.compositions = 0.0
  # Share of pictures in a style of suti/evaluation/styles.py, half of them in
  # the scene that they would show else. These three saw none either.
  config.styles = 0.0
  config.seed = 0
  return config
