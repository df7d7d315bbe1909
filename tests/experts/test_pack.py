# SPDX-License-Identifier: Apache-2.0
"""Shards: what is kept, with its demonstrations, in one fixed order."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from experts import pack
from experts.prompts import undescribed
from suti.io.records import open_examples, write_lines, write_records
from suti.runtime.stage import stage
from suti.schema import Candidate, Score
from tests.experts import inputs

CLUSTERS = inputs.make_clusters(3)
IMAGES = inputs.draw_pictures(50, 12)
CANDIDATES = [
  Candidate(
    key=f"{number:012x}",
    cluster=CLUSTERS[number % 3].key,
    prompt=f"a dog, number {number}",
    skill="attribute",
    image=image,
    seed=number,
    guidance=1.0,
  )
  for number, image in enumerate(IMAGES)
]
SCORES = [
  Score(
    candidate=c.key,
    cluster=c.cluster,
    prompt=c.prompt,
    values={"clip_t": 0.3, "delta_clip": c.seed / 100, "identity": 0.5},
    kept=c.seed >= 2,
  )
  for c in CANDIDATES
]


def make_workdir(folder):
  inputs.write_stages(folder, CLUSTERS)
  for i in range(3):
    write_records(
      folder / f"experts/sample/wave-{i:05d}.array_record",
      CANDIDATES[4 * i : 4 * i + 4],
      kind=Candidate,
    )
  write_lines(folder / "experts/filter/scores.jsonl", SCORES)
  for name in ("sample", "filter"):
    stage(folder, f"experts/{name}", {}).finish({"waves": 3})
  return folder


def config_of(**kw):
  config = inputs.make_config({}).unlock()
  config.filter.rule = "delta_clip > 0.015"  # as SCORES say
  config.update(kw)
  return config


def test_kept_candidates_come_with_their_cluster(tmp_path):
  workdir = make_workdir(tmp_path)
  summary = pack.run(config_of(), workdir)
  assert summary == {"examples": 10, "clusters": 3}
  examples = list(open_examples(workdir / "experts/pack"))
  assert {e.key for e in examples} == {s.candidate for s in SCORES if s.kept}
  for example in examples:
    candidate = CANDIDATES[int(example.key, 16)]
    cluster = next(c for c in CLUSTERS if c.key == candidate.cluster)
    assert example.cluster == cluster.key
    assert example.prompt == candidate.prompt
    assert example.captions == cluster.captions
    assert example.values["delta_clip"] == pytest.approx(candidate.seed / 100)
    np.testing.assert_array_equal(example.image, candidate.image)
    for ours, theirs in zip(
      example.demonstrations, cluster.images, strict=True
    ):
      np.testing.assert_array_equal(ours, theirs)


def test_the_order_is_shuffled_by_the_seed_alone(tmp_path):
  def order(name, **kw):
    workdir = make_workdir(tmp_path / name)
    pack.run(config_of(**kw), workdir)
    folder = workdir / "experts/pack"
    files = {f.name: f.read_bytes() for f in folder.glob("*.array_record*")}
    return [e.key for e in open_examples(folder)], files

  keys, files = order("a")
  again, same_files = order("b")
  assert keys == again
  assert files == same_files
  assert len(files) == 3  # shards of four
  assert keys != sorted(keys)
  other, _ = order("c", seed=1)
  assert other != keys
  assert sorted(other) == sorted(keys)


_PACK = """
import pathlib, sys
from tests.experts import test_pack
workdir = test_pack.make_workdir(pathlib.Path(sys.argv[1]))
test_pack.pack.run(test_pack.config_of(), workdir)
"""


def test_two_processes_write_the_same_bytes(tmp_path, root):
  """A map of protobuf is in another order in each of them."""
  packed = []
  for number in ("1", "2"):
    done = subprocess.run(
      [sys.executable, "-c", _PACK, str(tmp_path / number)],
      cwd=root,
      env=os.environ | {"PYTHONHASHSEED": number},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / number / "experts/pack"
    ours = ("done.json", "stage.json")  # one of them says how long it took
    files = [f for f in folder.rglob("*") if f.is_file() and f.name not in ours]
    packed.append({f.name: f.read_bytes() for f in files})
  assert packed[0] == packed[1]
  names = [name.partition(".")[0] for name in sorted(packed[0])]
  assert names == ["dataset_info", *["examples-train"] * 3, "features"]
  # Of an example, its features in the order of their names.
  file = tmp_path / "1/experts/pack/examples-train.array_record-00000"
  fields = ("cluster", "demonstrations/caption", "key", "prompt", "values/name")
  for content in ArrayRecordReader(str(file)).read_all():
    order = [content.index(name.encode()) for name in fields]
    assert order == sorted(order)


def test_the_rule_is_the_configs_own(tmp_path):
  """What `filter` was last run with may be another."""
  config = config_of()
  config.filter.rule = "delta_clip > 0.065"
  summary = pack.run(config, make_workdir(tmp_path))
  expected = sum(s.values["delta_clip"] > 0.065 for s in SCORES)
  assert summary["examples"] == expected == 5


def test_a_killed_run_is_done_again(tmp_path, monkeypatch):
  workdir = make_workdir(tmp_path)
  write = pack.write_examples

  def half(folder, examples, **kw):
    write(folder, examples, **kw)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(pack, "write_examples", half)
    with pytest.raises(KeyboardInterrupt):
      pack.run(config_of(), workdir)
  assert not (workdir / "experts/pack/done.json").exists()
  pack.run(config_of(), workdir)
  assert len(open_examples(workdir / "experts/pack")) == 10
  assert not (workdir / "experts/pack/part").exists()


def test_scores_of_other_candidates_are_caught():
  wrong = dataclasses.replace(SCORES[0], candidate="ffffffffffff")
  with pytest.raises(AssertionError):
    list(pack.make_examples([(wrong, CANDIDATES, 0)], CLUSTERS, origin="lora"))


def test_descriptions_are_taken_out_of_prompts():
  cluster = dataclasses.replace(
    CLUSTERS[0], caption="an orange spotted dog", subject="owl"
  )
  for prompt, expected in (
    ("an orange spotted dog in the snow", "an owl in the snow"),
    ("a wet orange spotted dog", "a wet owl"),
    ("a red spotted dog", "a red owl"),  # its own colour was left out
    ("a spotted dog on a rug", "an owl on a rug"),
    ("a teapot", "a teapot"),
  ):
    assert undescribed(prompt, cluster) == expected
  candidate = dataclasses.replace(
    CANDIDATES[0], prompt="a brown dog in the snow"
  )
  kept = [(SCORES[0], [candidate], 0)]
  found = {}
  for nouns in (False, True):
    (example,) = pack.make_examples(
      kept,
      SimpleNamespace(find={c.key: c for c in CLUSTERS}.get),
      origin="lora",
      nouns=nouns,
    )
    found[nouns] = example.prompt
  assert found == {
    False: "a brown dog in the snow",
    True: "a dog in the snow",
  }
