# SPDX-License-Identifier: Apache-2.0
"""What a teacher asks for reaches its request, of its own cluster's labels."""

import dataclasses

import numpy as np
import pytest

from experts import teacher
from experts.clusters import write_clusters
from experts.farm import requests, sampling
from experts.mining.views import correspondence
from suti.io.files import read_json
from suti.io.records import read_records, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Label, Prompt
from tests.experts import inputs

SIZE_PX = 16
ASKING = teacher.Teacher(
  paper="",
  declare=lambda backbone, config: backbone.unet,
  trainable=teacher.NOTHING,
  loss=None,
  sample=lambda *args: None,
  together=True,
  asks=("masks", "depth", "correspondence"),
)


class Sized:
  """As much of a backbone as labels need."""

  size_px = SIZE_PX


def label_of(key, number, *, x=0.0, depth=4.0, masked=slice(4, 12)):
  """A wall before a camera that is moved along it."""
  mask = np.zeros((SIZE_PX, SIZE_PX), bool)
  mask[masked, masked] = True
  return Label(
    key=key,
    number=number,
    names=("dog",),
    boxes_xyxy=((0.25, 0.25, 0.75, 0.75),),
    scores=(1.0,),
    masks=(mask,),
    depth=np.full((SIZE_PX, SIZE_PX), depth, np.float16),
    camera=(x, 0.0, 4.0, *np.eye(3).ravel(), 2.0),
  )


def config_of(together, **label):
  config = inputs.make_config({}).unlock()
  config.sample.update(together=together, batch_size=2 * together)
  config.label.update({"source": "world"} | label)
  return config


def test_pixels_correspond_as_cameras_say():
  """A step of 0.5 at a depth of 4 is 2 of 16 px by a focal length of 2."""
  everything = slice(0, SIZE_PX)
  views = [label_of("0" * 12, n, x=0.5 * n, masked=everything) for n in (0, 1)]
  places, seen = correspondence(views, size_px=SIZE_PX)
  assert places.shape == (2, 2, SIZE_PX, SIZE_PX, 2)
  column, row = np.meshgrid(np.arange(SIZE_PX) + 0.5, np.arange(SIZE_PX) + 0.5)
  assert seen[0, 1, :, 2:].all() and not seen[0, 1, :, :2].any()
  np.testing.assert_allclose(places[0, 1, :, 2:, 0], column[:, 2:] - 2)
  np.testing.assert_allclose(places[0, 1, :, 2:, 1], row[:, 2:])
  np.testing.assert_allclose(places[0, 0, ..., 0], column)
  behind = [views[0], label_of("0" * 12, 1, depth=5.0, masked=everything)]
  assert not correspondence(behind, size_px=SIZE_PX)[1][0, 1].any()


def test_views_are_the_first_that_are_labelled(tmp_path):
  clusters = inputs.make_clusters(2)
  keys = [cluster.key for cluster in clusters]
  write_clusters(tmp_path / "experts/mine", keys, iter(clusters))
  blank = Label(key=keys[0], number=0)
  labels = [
    blank,
    label_of(keys[0], 1, x=0.5),
    label_of(keys[0], 2),
    label_of(keys[1], 0),
  ]
  write_records(
    tmp_path / "experts/label/part-00000.array_record", labels, kind=Label
  )
  asked = requests.ask(
    ASKING, Sized(), config_of(2), tmp_path, dict.fromkeys(keys, ())
  )
  assert asked.views == {keys[0]: (1, 2), keys[1]: (0,)}
  assert asked.causes == {
    keys[1]: "1 of its pictures are labelled, and each of 2 images of a group "
    "follows one"
  }
  shapes = {name: x.shape for name, x in asked.arrays.items()}
  plane = (SIZE_PX, SIZE_PX)
  assert shapes == {
    "masks_THW": (2, 2, *plane),
    "depth_THW": (2, 2, *plane),
    "places_TTHW2": (2, 2, 2, *plane, 2),
    "seen_TTHW": (2, 2, 2, *plane),
  }
  for number in (0, 1):
    np.testing.assert_array_equal(
      asked.arrays["masks_THW"][0, number], labels[1 + number].masks[0]
    )
  assert (asked.arrays["depth_THW"][0] == 4).all()
  assert asked.arrays["seen_TTHW"][0, 0, 1].any()
  for array in asked.arrays.values():
    assert not array[1].any()  # of the cluster that is left out
  planned = requests.nothing_asked(ASKING, Sized(), config_of(2))
  assert {n: x.shape[1:] for n, x in planned.arrays.items()} == {
    n: shape[1:] for n, shape in shapes.items()
  }


def test_a_source_that_knows_less_is_one_line():
  with pytest.raises(ValueError) as caught:
    teacher.check_asked(
      dataclasses.replace(ASKING, asks=("pictures", "depth")),
      config_of(1, source="folder"),
    )
  assert str(caught.value) == (
    "The teacher 'dreambooth' asks for depth, and config.label.source='folder' "
    "knows masks alone: set config.label.source=world, or take another teacher."
  )
  with pytest.raises(ValueError) as caught:
    teacher.check_asked(ASKING, config_of(1, source="none"))
  assert "config.label.source='none' labels nothing: set" in str(caught.value)
  teacher.check_asked(ASKING, config_of(1))


def test_candidates_have_their_masks_and_views(tmp_path, monkeypatch):
  """And a cluster that is labelled too little has none."""
  clusters = inputs.make_clusters(2)
  keys = [cluster.key for cluster in clusters]
  inputs.write_stages(tmp_path, clusters)
  labels = [label_of(keys[0], n) for n in (0, 2)] + [label_of(keys[1], 0)]
  write_records(
    tmp_path / "experts/label/part-00000.array_record", labels, kind=Label
  )
  stage(tmp_path, "experts/label", {}).finish({"parts": 1})
  config = config_of(2)
  record = dataclasses.replace(ASKING, masks=True)
  backbone = Sized()
  backbone.null_text = lambda negative: {}
  backbone.codec = type("Codec", (), {"params": {}})
  backbone.encode_text = lambda texts: {"x": np.zeros((len(texts), 1))}
  images = np.full((8, 4, SIZE_PX, SIZE_PX, 3), 0.5, np.float32)
  masks = np.zeros(images.shape[:-1], bool)
  masks[0, :, 3] = True
  monkeypatch.setattr(
    sampling, "make_sample", lambda *a, **kw: lambda *arrays: (images, masks)
  )
  prompts = [
    Prompt(cluster=key, prompt=text, skill="attribute")
    for key in keys
    for text in inputs.PROMPTS[:2]
  ]
  monkeypatch.setattr(sampling, "read_prompts", lambda workdir: prompts)
  mesh = sampling.Mesh(np.asarray(sampling.jax.devices()), ("data",))
  model = type(
    "Model",
    (),
    {
      "backbone": backbone,
      "mesh": mesh,
      "teacher": record,
      "apply": None,
      "frozen": {},
    },
  )
  run = sampling.make_sample_wave(model, config, inner="vmap", workdir=tmp_path)
  experts = [{"cluster": key, "status": "ok"} for key in keys]
  run(iter([{}]), "wave-00000", experts, tmp_path)
  sampled = list(read_records(tmp_path / "wave-00000.array_record", Candidate))
  assert [(c.cluster, c.number, c.view) for c in sampled] == [
    (keys[0], 0, 0),
    (keys[0], 1, 2),
  ]
  for each in sampled:
    np.testing.assert_array_equal(each.mask, masks[0, 0])
  (lost,) = read_json(tmp_path / "wave-00000.json")["quarantined"]
  assert lost["cluster"] == keys[1]
  assert lost["cause"].startswith("1 of its pictures are labelled")
