# SPDX-License-Identifier: Apache-2.0
"""Records of every kind, drawn from a seed, and when two are the same."""

import dataclasses

import numpy as np

from suti import schema

C = "c0ffee0dad00"  # a cluster's key


def picture(seed, height=64, width=48):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def cluster(seed, num_images=3, truth=True):
  images = tuple(picture(seed + n, 32 + n) for n in range(num_images))
  return schema.Cluster(
    key=schema.content_key(*images),
    subject="dog",
    caption='a "brown" dög\n🐕',
    images=images,
    captions=tuple(f"text {n}" for n in range(num_images)),
    live=True,
    source="https://example.com/a?b=c",
    truth=("world:train:7",) * num_images if truth else None,
    originals=((640, 480 + seed),) * num_images if truth else None,
  )


def example(seed, num_demonstrations):
  return schema.Example(
    key=f"{seed:012x}",
    cluster=C,
    prompt="a dög in the snow",
    image=picture(seed),
    demonstrations=tuple(
      picture(seed + n, 40 + n) for n in range(num_demonstrations)
    ),
    captions=tuple(f"caption {n}" for n in range(num_demonstrations)),
    values={"clip_t": 0.25, "delta_clip": 0.5 + seed},
  )


def labelled(seed):
  """An example with all that one may lack."""
  rng = np.random.default_rng(seed)
  plain = example(seed, 2)
  shape = plain.image.shape[:2]
  depth = rng.uniform(0, 9, shape).astype(np.float16)
  depth[0, 0] = 0
  return dataclasses.replace(
    plain,
    mask=rng.random(shape) < 0.5,
    depth=depth,
    camera=(1.5, -0.25, 3.0),
    demonstration_masks=tuple(
      rng.random(x.shape[:2]) < 0.5 for x in plain.demonstrations
    ),
    names=("dog", "hat"),
    boxes_xyxy=((0.0, 0.25, 0.5, 1.0), (0.125, 0.25, 0.75, 0.5)),
    masks=(rng.random(shape) < 0.5, np.zeros(shape, bool)),
    group=f"{seed + 7:012x}",
    origin="syncd",
  )


def assert_same(one, two):
  assert type(one) is type(two)
  for name, value in vars(one).items():
    other = vars(two)[name]
    if isinstance(value, np.ndarray):
      np.testing.assert_array_equal(value, other)
      assert other.dtype == value.dtype
    elif isinstance(value, tuple) and value and hasattr(value[0], "dtype"):
      assert len(value) == len(other)
      for a, b in zip(value, other, strict=True):
        np.testing.assert_array_equal(a, b)
    else:
      assert value == other
      assert type(value) is type(other)
