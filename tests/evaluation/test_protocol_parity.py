# SPDX-License-Identifier: Apache-2.0
"""Scores equal those of torch, for the protocol and for every variant."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from suti.evaluation import scores as scoring
from suti.evaluation.benchmark.evaluate import Job, evaluate
from suti.evaluation.protocol import VARIANTS
from tests.evaluation import protocol_case as case

GOLDENS = json.loads(
  (pathlib.Path(__file__).parent.parent / "goldens/evaluation.json").read_text()
)
METRICS = ("identity", "clip_i", "clip_t")


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
  return case.write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch):
  """A handful of pictures needs no batch of 64 of them."""
  monkeypatch.setattr(scoring, "ROWS", 8)


def ours(reading, folder, variant) -> dict[str, float]:
  encoders = case.write_encoders(folder / "encoders", case.VARIANTS[variant])
  job = Job(system="x", reading=reading, encoders=encoders, variants=variant)
  found = evaluate(job, folder / "scores")["scores"]
  return {name: found[name]["mean"] for name in METRICS}


def test_every_variant_has_a_case():
  assert {v for names in case.VARIANTS for v in names} == set(VARIANTS)
  assert len(GOLDENS) == len(case.VARIANTS)


@pytest.mark.parametrize("variant", [(), ("masked-dinov2",)])
def test_scores_equal_the_goldens(reading, tmp_path, variant):
  """Two of them; the others are compared in the parity tests."""
  golden = GOLDENS["+".join(variant) or "protocol"]
  assert ours(reading, tmp_path, variant) == pytest.approx(golden, abs=1e-3)


@pytest.mark.parity
@pytest.mark.parametrize("variant", list(case.VARIANTS))
def test_scores_equal_torchs(reading, tmp_path, variant):
  from tests.evaluation import torch_protocol

  found = ours(reading, tmp_path, variant)
  theirs = torch_protocol.scores(reading, tmp_path / "encoders", variant)
  assert found == pytest.approx(theirs, abs=1e-3)
  golden = GOLDENS["+".join(variant) or "protocol"]
  assert theirs == pytest.approx(golden, abs=1e-4)
  # Variants differ by far more than that.
  for name, value in GOLDENS.items():
    if name != ("+".join(variant) or "protocol"):
      far = max(abs(golden[m] - value[m]) for m in METRICS)
      assert far > 2e-3, name


@pytest.mark.parity
def test_imagenhubs_metric_agrees_and_its_clipscore_inverts_colours(
  reading, tmp_path
):
  """A pair at a time, averaged by the caller, as its benchmark does.

  Its CLIPScore takes 0 to 255 for 0 to 1 and multiplies by 255 in 8 bits,
  which leaves 256 minus each value: the negative is what it scores.
  """
  from tests.evaluation import torch_protocol as torch_side

  found = ours(reading, tmp_path, ())
  judges = torch_side.Judges(tmp_path / "encoders", "dino16")
  dino, clip, plain, wrapped = [], [], [], []
  for picture in reading.pictures:
    image = Image.open(picture.path).convert("RGB")
    text = judges.embed_text(picture.prompt)
    negative = Image.fromarray((np.array(image) * 255).astype(np.uint8))
    np.testing.assert_array_equal(
      np.array(negative), (256 - np.array(image, int)) % 256
    )
    for scores, shown in ((plain, image), (wrapped, negative)):
      x = torch_side.prepare(shown, edge=224, crop=224, norm=torch_side.OPENAI)
      scores.append(torch_side.cosine(judges.embed_clip(x), text))
    for path in reading.benchmark.subjects[picture.subject].references:
      real = Image.open(path).convert("RGB")
      one, two = (
        judges.embed_identity(
          torch_side.prepare(x, edge=256, crop=224, norm=torch_side.IMAGENET)
        )
        for x in (real, image)
      )
      dino.append(torch_side.cosine(one, two))
      one, two = (
        judges.embed_clip(
          torch_side.prepare(x, edge=224, crop=224, norm=torch_side.OPENAI)
        )
        for x in (real, image)
      )
      clip.append(torch_side.cosine(one, two))
  assert found["identity"] == pytest.approx(np.mean(dino), abs=1e-3)
  assert found["clip_i"] == pytest.approx(np.mean(clip), abs=1e-3)
  assert found["clip_t"] == pytest.approx(np.mean(plain), abs=1e-3)
  assert abs(np.mean(wrapped) - found["clip_t"]) > 0.01
