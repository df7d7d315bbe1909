# SPDX-License-Identifier: Apache-2.0
"""SynCD's teacher in a whole run on SubjectWorld, killed and not.

The rigid variant, which reads the most: labels, views, masks.
"""

import numpy as np
import pytest

from suti.io.files import read_json
from suti.io.records import open_examples, read_records
from suti.schema import Candidate
from tests import tiny
from tests.end_to_end import killed_run_of

FIELDS = {
  "mine.source": "world",
  "mine.path": "",
  "mine.similarity_low": -1.0,
  "mine.similarity_high": 1.0,
  "benchmark.source": "world",
  "benchmark.path": "",
  "benchmark.num_prompts": 3,
  "label.source": "world",
  "prompts.num_per_cluster": 3,
  "finetune.teacher": "syncd",
  "finetune.depth_net": "none",
  "sample.together": 3,
  "sample.batch_size": 3,
  "sample.view_area": 0.01,
  "sample.view_overlap": 0.01,
  "sample.syncd.warp": "finest",
  "filter.name": "syncd",
  "filter.rule": "pair_identity > -1",
  "filter.crop": True,
  "pack.demonstrations": "group",
  "method.num_heads": 2,
}
# Where the run dies, as in test_pipeline.py.
DEATHS = (("experts/label", 2), ("experts/sample", 3), ("experts/pack", 2))


def candidates_of(workdir):
  return [
    candidate
    for path in sorted((workdir / "experts/sample").glob("*.array_record"))
    for candidate in read_records(path, Candidate)
  ]


@pytest.mark.faults
def test_killed_it_ends_in_the_same_files(
  tmp_path_factory, tiny_clip, tiny_identity
):
  root = tmp_path_factory.mktemp("runs")
  base = tiny.write_backbone(root / "base", unet=tiny.SMALLEST_UNET)
  runs = killed_run_of.Runs(
    root,
    {"backbone": base, "clip": tiny_clip, "identity": tiny_identity},
    fields=FIELDS,
  )
  whole = runs.start("whole")
  assert whole.returncode == 0, whole.stderr[-4000:]
  broken = runs.start("broken", deaths=DEATHS)
  assert broken.returncode == 0, broken.stderr[-4000:]
  one, two = (candidates_of(root / name) for name in ("whole", "broken"))
  assert len(one) == len(two) > 0
  for a, b in zip(one, two, strict=True):
    assert a.key == b.key and a.group == b.group
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.mask, b.mask)
    assert a.mask is not None and a.mask.any()
  names = ("experts/filter/scores.jsonl", "experts/prompts/prompts.jsonl")
  for name in names:
    paths = [root / run / name for run in ("whole", "broken")]
    assert paths[0].read_bytes() == paths[1].read_bytes(), name
  packed = [
    {e.key: e for e in open_examples(root / run / "experts/pack")}
    for run in ("whole", "broken")
  ]
  assert packed[0].keys() == packed[1].keys()
  for example in packed[0].values():
    assert len(example.demonstrations) == len(example.demonstration_masks) > 0
  done = read_json(root / "whole/experts/finetune/done.json")["summary"]
  assert done["experts"] == 0
