# SPDX-License-Identifier: Apache-2.0
"""The input pipeline: order, random choices, padding, resume in mid-epoch."""

import collections

import jax
import numpy as np
import pytest

from apprentice.data import batches, open_folder
from apprentice.fields import make_fields
from apprentice.method import IMAGE, Field
from apprentice.methods.suti import METHOD
from suti.io.records import write_examples
from tests.apprentice import inputs
from tests.tiny import SIZE_PX

NUM = 7


def encode_text(texts):
  """Texts as their bytes: each has an embedding of its own."""
  rows = np.zeros((len(texts), 24, 1), np.float32)
  for row, text in zip(rows, texts, strict=True):
    row[: len(text), 0] = list(text.encode())
  return {"text_BLD": rows}


def text_of(conditioning, *row):
  embedding_LD = conditioning["text_BLD"][row]
  return bytes(embedding_LD[:, 0].astype(np.uint8)).rstrip(b"\0").decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pack") / "examples"
  write_examples(folder, inputs.draw_examples(NUM), shard_size=3)
  return folder


@pytest.fixture(scope="module")
def examples():
  """{bytes of the target: example}."""
  return {e.image.tobytes(): e for e in inputs.draw_examples(NUM)}


def open_batches(*folders, **options):
  return batches(
    [open_folder(folder) for folder in folders],
    **{
      "fields": METHOD.fields(None),
      "encode_text": encode_text,
      "size_px": SIZE_PX,
      "batch_size": 4,
      "num_demonstrations": 3,
      "seed": 0,
    }
    | options,
  )


def take(iterator, num):
  return [next(iterator) for _ in range(num)]


def equal(ours, others):
  return len(ours) == len(others) and all(
    jax.tree.all(jax.tree.map(np.array_equal, a, b))
    for a, b in zip(ours, others, strict=True)
  )


def test_an_example_becomes_the_fields_of_the_method(folder, examples):
  batch = next(open_batches(folder))
  assert set(batch) == {field.name for field in METHOD.fields(None)}
  assert batch["image"].shape == (4, SIZE_PX, SIZE_PX, 3)
  assert batch["image"].dtype == np.uint8
  assert batch["demonstrations"].shape == (4, 3, SIZE_PX, SIZE_PX, 3)
  assert batch["demonstration_mask"].all()
  for row in range(4):
    example = examples[batch["image"][row].tobytes()]
    assert text_of(batch["text"], row) == example.prompt
    shown = [image.tobytes() for image in example.demonstrations]
    drawn = [
      shown.index(image.tobytes()) for image in batch["demonstrations"][row]
    ]
    assert len(set(drawn)) == 3, "chosen without replacement"
    # Each beside its own caption.
    conditioning = batch["demonstration_text"]
    assert [text_of(conditioning, row, k) for k in range(3)] == [
      example.captions[i] for i in drawn
    ]


def test_every_example_once_an_epoch_in_another_order_each(folder):
  rows = [
    image.tobytes()
    for batch in take(open_batches(folder), NUM)
    for image in batch["image"]
  ]
  epochs = [rows[i * NUM : (i + 1) * NUM] for i in range(4)]
  assert all(len(set(epoch)) == NUM for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_all_demonstrations_and_orders_occur(folder, examples):
  seen = collections.defaultdict(set)
  for batch in take(open_batches(folder), 40):
    for image, shown in zip(
      batch["image"], batch["demonstrations"], strict=True
    ):
      example = examples[image.tobytes()]
      known = [x.tobytes() for x in example.demonstrations]
      seen[example.key].add(tuple(known.index(x.tobytes()) for x in shown))
  for orders in seen.values():
    assert {i for order in orders for i in order} == {0, 1, 2, 3}
    assert len(orders) > 6


def test_seed_decides(folder):
  first = take(open_batches(folder), 5)
  assert equal(first, take(open_batches(folder), 5))
  assert not equal(first, take(open_batches(folder, seed=1), 5))


def test_resumes_in_mid_epoch_bitwise(folder):
  unbroken = take(open_batches(folder), 9)
  killed = open_batches(folder)
  take(killed, 3)  # 12 rows: in the middle of the second epoch
  state = killed.get_state()
  resumed = open_batches(folder)
  resumed.set_state(state)
  assert equal(take(resumed, 6), unbroken[3:])


def test_what_was_read_ahead_is_not_lost(folder):
  """The state is of what was taken, not of what threads have prepared."""
  iterator = open_batches(folder)
  take(iterator, 1)
  state = iterator.get_state()
  following = take(iterator, 3)
  iterator.set_state(state)
  assert equal(take(iterator, 3), following)


def test_missing_demonstrations_are_masked(folder):
  batch = next(open_batches(folder, num_demonstrations=6))
  np.testing.assert_array_equal(
    batch["demonstration_mask"], [[True] * 4 + [False] * 2] * 4
  )
  assert not batch["demonstrations"][:, 4:].any()
  assert text_of(batch["demonstration_text"], 0, 5) == ""


def test_folders_are_joined(folder, tmp_path):
  other = inputs.draw_examples(NUM + 2)[NUM:]
  write_examples(tmp_path / "more", other, shard_size=8)
  rows = {
    image.tobytes()
    for batch in take(open_batches(folder, tmp_path / "more"), 9)
    for image in batch["image"]
  }
  assert len(rows) == NUM + 2


def test_a_demonstration_as_target_is_not_shown(folder, examples):
  batch = next(open_batches(folder, demonstration_targets=1.0))
  by_demonstration = {
    x.tobytes(): (e, i)
    for e in examples.values()
    for i, x in enumerate(e.demonstrations)
  }
  for row in range(4):
    example, index = by_demonstration[batch["image"][row].tobytes()]
    assert text_of(batch["text"], row) == example.captions[index]
    shown = {x.tobytes() for x in batch["demonstrations"][row]}
    assert batch["image"][row].tobytes() not in shown
    assert len(shown) == 3


def test_other_sizes_are_brought_to_the_models():
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (40, 64, 3), np.uint8)
  arrays = make_fields(
    image=picture,
    prompt="a dog",
    demonstrations=[picture],
    captions=["a dog"],
    num_demonstrations=2,
    encode_text=encode_text,
    size_px=SIZE_PX,
  )
  assert arrays["image"].shape == (SIZE_PX, SIZE_PX, 3)
  assert arrays["demonstrations"].shape == (2, SIZE_PX, SIZE_PX, 3)


def test_no_demonstration_is_a_shape_too():
  arrays = make_fields(
    image=None,
    prompt="a dog",
    demonstrations=[],
    captions=[],
    num_demonstrations=0,
    encode_text=encode_text,
    size_px=SIZE_PX,
  )
  assert "image" not in arrays
  assert arrays["demonstrations"].shape == (0, SIZE_PX, SIZE_PX, 3)
  assert arrays["demonstration_mask"].shape == (0,)


def test_planes_are_cropped_as_their_pictures():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (2 * SIZE_PX, 3 * SIZE_PX, 3), np.uint8)
  mask = np.zeros(image.shape[:2], bool)
  # The left half of the square that is cut, and what lies outside of it.
  mask[:, : 3 * SIZE_PX // 2] = True
  fields = [
    IMAGE,
    Field(name="where", source="mask", made="plane"),
    Field(name="far", source="depth", made="plane", absent=0.5),
    Field(name="theirs", source="demonstration_masks", made="plane"),
  ]
  arrays = make_fields(
    image=image,
    prompt="a dog",
    demonstrations=[image],
    captions=["a dog"],
    num_demonstrations=2,
    encode_text=encode_text,
    size_px=SIZE_PX,
    fields=fields,
    planes={"mask": mask, "demonstration_masks": [mask]},
  )
  assert list(arrays) == ["image", "where", "far", "theirs"]
  half = np.zeros((SIZE_PX, SIZE_PX), bool)
  half[:, : SIZE_PX // 2] = True
  np.testing.assert_array_equal(arrays["where"], half)
  np.testing.assert_array_equal(arrays["theirs"], [half, ~half & half])
  np.testing.assert_array_equal(
    arrays["far"], np.full((SIZE_PX, SIZE_PX), 0.5, np.float16)
  )


def test_a_plane_that_no_example_has_is_named(folder):
  fields = [IMAGE, Field(name="where", source="mask", made="plane")]
  with pytest.raises(
    ValueError,
    match=r"needs where, and an example or a request has no mask: label the",
  ):
    next(open_batches(folder, fields=fields))


def test_a_folder_that_is_none_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"dataset_info\.json"):
    open_batches(tmp_path)
