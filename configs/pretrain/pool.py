# SPDX-License-Identifier: Apache-2.0
"""The pictures all pretrainings share: rendered once, 1.2 GB on disk."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Which pictures of SubjectWorld's training subjects to render."""
  config = ml_collections.ConfigDict()
  config.split = "train"
  # Many subjects, not many pictures each: identity is learned from subjects.
  config.num_subjects = 6000
  config.shots_each = 16
  # Plain backdrops are what web shops show, and what attribute templates use.
  config.studio = 0.1
  # Share of pictures in a style of suti/evaluation/styles.py, half of them in
  # the scene that they would show else. The shipped models saw none.
  config.styles = 0.0
  config.seed = 0
  return config
