# SPDX-License-Identifier: Apache-2.0
"""Mirror images of subjects that have too few pictures."""

import dataclasses

import numpy as np
import pytest

from apprentice.data import batches
from apprentice.latents import encode_examples
from apprentice.method import STANDARD, Field
from suti.pipeline.backbone import load_backbone
from tests.apprentice import inputs
from tests.tiny import SIZE_PX

MASKS = Field(
  name="demonstration_masks",
  source="demonstration_masks",
  made="plane",
  absent=1.0,
)
FIELDS = (*STANDARD, MASKS)


def example(num, *, masks=False):
  """One whose pictures and masks differ from their mirror images."""
  (found,) = inputs.draw_examples(1, num_demonstrations=num)
  if not masks:
    return found
  rng = np.random.default_rng(1)
  target, *rest = rng.random((1 + num, SIZE_PX, SIZE_PX)) < 0.5
  return dataclasses.replace(
    found, mask=target, demonstration_masks=tuple(rest)
  )


def shown(source, mirror, *, num=2, size=40):
  """A batch of one example, read many times."""
  return next(
    batches(
      [source],
      fields=FIELDS,
      encode_text=lambda texts: {"text_BLD": np.zeros((len(texts), 1, 1))},
      size_px=SIZE_PX,
      batch_size=size,
      num_demonstrations=num,
      mirror=mirror,
    )
  )


def which(picture, named):
  (name,) = [n for n, x in named.items() if np.array_equal(x, picture)]
  return name


@pytest.mark.parametrize(
  ("mirror", "expected"),
  [("demonstrations", {"one", "turned"}), ("all", {"one", "turned", "own"})],
)
def test_one_picture_is_shown_with_mirror_images(mirror, expected):
  given = example(1, masks=True)
  one, (mask,) = given.demonstrations[0], given.demonstration_masks
  assert given.mask is not None
  named = {"one": one, "turned": one[:, ::-1], "own": given.image[:, ::-1]}
  its = {"one": mask, "turned": mask[:, ::-1], "own": given.mask[:, ::-1]}
  batch = shown([given], mirror)
  assert batch["demonstration_mask"].all()
  seen, firsts = set(), set()
  for pictures, masks in zip(
    batch["demonstrations"], batch["demonstration_masks"], strict=True
  ):
    names = [which(picture, named) for picture in pictures]
    assert len(set(names)) == 2
    for name, found in zip(names, masks, strict=True):
      np.testing.assert_array_equal(found, its[name])
    seen |= set(names)
    firsts.add(names[0])
  assert seen == expected
  # CLIP sees the first: never the target itself, turned.
  assert firsts == {"one", "turned"}


def test_enough_pictures_are_not_turned():
  given = example(2)
  pictures = {x.tobytes() for x in given.demonstrations}
  batch = shown([given], "all")
  assert {x.tobytes() for x in batch["demonstrations"].reshape(
    -1, SIZE_PX, SIZE_PX, 3
  )} == pictures  # fmt: skip


def test_none_shows_one():
  batch = shown([example(1)], "none")
  np.testing.assert_array_equal(
    batch["demonstration_mask"], [[True, False]] * 40
  )


def test_a_target_alone_is_not_its_own_reference():
  batch = shown([example(0)], "all")
  assert not batch["demonstration_mask"].any()


def test_latents_of_mirror_images_are_cached(tiny_backbone, tmp_path):
  backbone = load_backbone(tiny_backbone)
  few, enough = example(1), example(2)
  source = encode_examples(
    [few, enough], backbone, tmp_path / "latents", mirror_below=2
  )
  first, second = source[0], source[1]
  assert not second.mirrors
  expected = backbone.encode_pictures(
    [few.image[:, ::-1], few.demonstrations[0][:, ::-1]]
  )
  np.testing.assert_array_equal(first.mirrors, expected.astype(np.float16))
  cached = shown([first], "all")
  direct = shown([few], "all")
  # The same choices, as latents.
  latents = backbone.encode_pictures(
    list(direct["demonstrations"].reshape(-1, SIZE_PX, SIZE_PX, 3))
  )
  np.testing.assert_array_equal(
    cached["demonstrations"].reshape(latents.shape), latents.astype(np.float16)
  )
