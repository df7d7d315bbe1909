# SPDX-License-Identifier: Apache-2.0
"""Conditioning: by hand for sizes, by its names for the rest."""

import numpy as np

from suti.pipeline import conditioning as conditionings
from suti.pipeline.text_encoders import Text


def test_sizes_of_a_picture_that_was_cut():
  originals = [(64, 64), (40, 24), (16, 61), (8000, 2000)]
  found = conditionings.cut_pictures(np.array(originals), size_px=16)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(
    found,
    [
      [64, 64, 0, 0, 16, 16],
      [40, 24, 5, 0, 16, 16],  # 26 x 16 once scaled
      [16, 61, 0, 22, 16, 16],  # 22.5, rounded to even
      [8000, 2000, 24, 0, 16, 16],
    ],
  )


def test_a_picture_of_its_own_size_is_whole():
  np.testing.assert_array_equal(
    conditionings.cut_pictures(np.array([(32, 32)]), size_px=32),
    conditionings.whole_pictures(1, height_px=32, width_px=32),
  )


def test_a_net_gets_only_the_conditions_that_it_reads():
  text = Text(np.ones((1, 2, 3)), np.ones((1, 4)))
  time_ids_BI = conditionings.whole_pictures(1, height_px=8, width_px=8)
  make = conditionings.make_conditioning
  plain = make({}, text, time_ids_BI=time_ids_BI)
  assert set(plain) == {"text_BLD"}
  config = {"addition_embed_type": "text_time"}
  conditioning = conditionings.make_conditioning(
    config, text, time_ids_BI=time_ids_BI
  )
  assert set(conditioning) == {"text_BLD", "pooled_BD", "time_ids_BI"}


def test_a_net_is_called_by_the_names_of_its_arguments():
  def apply(params, x, t, text_BLD, *, added, context):
    return params, x, t, text_BLD, added, context

  conditioning = {"text_BLD": "text", "class_labels_B": "level"}
  *said, added, context = conditionings.apply_denoiser(
    apply, "params", "x", "t", conditioning, context="shown"
  )
  assert (*said, context) == ("params", "x", "t", "text", "shown")
  assert added == (None, None, "level")
  assert set(conditioning) == {"text_BLD", "class_labels_B"}
