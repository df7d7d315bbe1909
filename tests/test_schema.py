# SPDX-License-Identifier: Apache-2.0
"""Records: what they refuse, and the names they are given."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from suti import schema
from suti.evaluation.dreambench import templates_of

IMAGE = np.zeros((4, 5, 3), np.uint8)


def test_content_keys_say_what_is_in_them():
  key = schema.content_key("a dog", 3, IMAGE)
  # Written down: a key is part of file contents and of random streams, so it
  # must be the same in every version.
  assert key == "864f1c53f8a7"
  assert key == schema.content_key("a dog", 3, IMAGE.copy())
  others = [
    schema.content_key("a dog", 4, IMAGE),
    schema.content_key("a dog", "3", IMAGE),
    schema.content_key(3, "a dog", IMAGE),
    schema.content_key("a dog", 3, IMAGE.reshape(5, 4, 3)),
    schema.content_key("a dog", 3, IMAGE + np.uint8(1)),
    schema.content_key("a do", "g3", IMAGE),
    schema.content_key(b"a dog", 3, IMAGE),
  ]
  assert len({key, *others}) == 1 + len(others)


def test_keys_are_hexadecimal_of_twelve_digits():
  keys = [schema.content_key(number) for number in range(500)]
  assert len(set(keys)) == 500
  assert all(len(key) == 12 and int(key, 16) >= 0 for key in keys)


def test_records_are_frozen_and_by_keyword():
  prompt = schema.Prompt(cluster="c", prompt="a red dog", skill="attribute")
  with pytest.raises(dataclasses.FrozenInstanceError):
    prompt.prompt = "a blue dog"
  with pytest.raises(TypeError):
    schema.Prompt("c", "a red dog", "attribute")
  for kind in (schema.Cluster, schema.Expert, schema.Candidate, schema.Example):
    assert kind.__dataclass_params__.frozen


def candidate(**fields):
  values = {
    "key": "k",
    "cluster": "c",
    "prompt": "p",
    "skill": "style",
    "image": IMAGE,
    "seed": 0,
    "guidance": 1.0,
  }
  return schema.Candidate(**(values | fields))


def test_the_example_of_a_prompt_is_one_that_a_stage_writes():
  (example,) = re.findall(r'the whole text, "(.*)"', schema.Prompt.__doc__)
  templates = [t for live in (True, False) for t in templates_of(live=live)]
  assert example in {t.text.format("dog") for t in templates}


@pytest.mark.parametrize(
  "image",
  [
    IMAGE.astype(np.float32),
    IMAGE[..., 0],
    np.zeros((4, 4, 4), np.uint8),
    IMAGE.tolist(),
  ],
)
def test_a_picture_is_uint8_rgb(image):
  candidate()
  with pytest.raises(AssertionError):
    candidate(image=image)


def test_skill_and_status_are_of_the_known_ones():
  with pytest.raises(AssertionError):
    candidate(skill="levitation")
  with pytest.raises(AssertionError):
    schema.Expert(cluster="c", teacher="t", steps=1, loss=0.1, status="late")


def test_captions_are_as_many_as_pictures():
  fields = {
    "key": "k",
    "cluster": "c",
    "prompt": "p",
    "image": IMAGE,
    "demonstrations": (IMAGE, IMAGE),
    "values": {"delta_clip": 0.1},
  }
  schema.Example(captions=("a", "b"), **fields)
  with pytest.raises(AssertionError):
    schema.Example(captions=("a",), **fields)


def test_the_schema_needs_numpy_alone():
  code = (
    "import sys, suti.schema;"
    "print([m for m in ('jax', 'flax', 'PIL', 'absl', 'tensorflow_datasets')"
    " if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"
