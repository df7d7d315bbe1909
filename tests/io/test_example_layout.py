# SPDX-License-Identifier: Apache-2.0
"""What a record may lack, masks of a bit and depths of sixteen, comes back."""

import json
import math

import numpy as np
import pytest
import tensorflow_datasets as tfds

from suti import schema
from suti.io import example_layout, record_bytes, records
from tests.io.record_cases import C, assert_same, example, labelled


def test_masks_depths_and_boxes_come_back(tmp_path):
  given = labelled(3)
  label = schema.Label(
    key=C,
    number=2,
    names=given.names,
    boxes_xyxy=given.boxes_xyxy,
    scores=(0.5, 1.0),
    masks=given.masks,
    depth=given.depth,
    camera=(1.0, -2.5),
  )
  bare = schema.Label(key=C, number=0)
  path = tmp_path / "labels.array_record"
  records.write_records(path, [label, bare], kind=schema.Label)
  for one, two in zip(
    [label, bare], records.read_records(path, schema.Label), strict=True
  ):
    assert_same(one, two)
  grouped = schema.Candidate(
    key=C,
    cluster=C,
    prompt="p",
    skill="style",
    image=given.image,
    seed=1,
    guidance=1.0,
    group=C,
    number=2,
    mask=given.mask,
  )
  records.write_records(path, [grouped], kind=schema.Candidate)
  assert_same(records.read_records(path, schema.Candidate)[0], grouped)


def test_a_mask_has_one_bit_a_pixel_and_a_depth_sixteen():
  given = labelled(0)
  for content, bits in (
    (record_bytes.encode_mask(given.mask), 1),
    (record_bytes.encode_depth(given.depth), 16),
  ):
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[24] == bits  # of IHDR, after width and height


def test_measures_that_are_no_numbers_survive(tmp_path):
  score = schema.Score(
    candidate=C,
    cluster=C,
    prompt="p",
    values={"clip_t": 0.25, "pair_identity": math.nan},
    kept=False,
  )
  path = tmp_path / "scores.jsonl"
  records.write_lines(path, [score])
  (read,) = records.read_lines(path, schema.Score)
  assert read.values["clip_t"] == 0.25
  assert math.isnan(read.values["pair_identity"])
  line = json.loads(path.read_text())
  path.write_text(json.dumps(line | {"values": {"clip_t": "high"}}))
  with pytest.raises(ValueError, match="clip_t of its values is 'high' and no"):
    records.read_lines(path, schema.Score)


def test_what_an_example_may_lack_comes_back(tmp_path):
  given = [labelled(1), example(2, 2), labelled(3)]
  folder = tmp_path / "examples"
  records.write_examples(folder, given, shard_size=2)
  read = records.open_examples(folder)
  for one, two in zip(given, read, strict=True):
    assert_same(one, two)
  # TFDS decodes masks by itself, and depths with OpenCV alone.
  builder = tfds.builder_from_directory(str(folder))
  source = builder.as_data_source(
    split="train", decoders={"depth": example_layout.decoders()["depth"]}
  )
  (mask,) = source[0]["mask"]
  np.testing.assert_array_equal(mask[..., 0] > 0, given[0].mask)
  assert source[0]["entities"]["mask"][1].shape == (*given[0].mask.shape, 1)
  assert len(source[1]["mask"]) == len(source[1]["depth"]) == 0
