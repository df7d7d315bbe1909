# SPDX-License-Identifier: Apache-2.0
"""Apprentices on SDXL, with its sizes, and on IF, which predicts a variance."""

import numpy as np
import pytest

from apprentice import train
from apprentice.generate import generate
from apprentice.model import load_apprentice
from suti.io.files import read_json
from suti.pipeline.backbone import load_backbone
from tests.apprentice import inputs
from tests.pipeline import tiny_pipelines

SITES = {"sdxl": r"transformer_blocks\.\d+$", "if1": r"attentions\.\d+$"}


@pytest.mark.parametrize("kind", SITES)
def test_it_trains_is_written_and_samples(kind, tmp_path):
  unet = tiny_pipelines.ONE_LEVEL[kind]
  base = tiny_pipelines.write(kind, tmp_path / kind, unet=unet)
  config = inputs.make_config(
    base,
    num_steps=1,
    warmup_steps=0,
    checkpoint_every=1,
    log_every=1,
    ema=0.0,
    learning_rate=1e-2,
  ).unlock()
  config.method.update(sites=SITES[kind], num_heads=1)
  if kind == "if1":  # its attention sees texts too
    config.method.features = "encoder"
  config.method.trainable = r"\.adapter\."  # fewer compile faster
  inputs.write_pack(tmp_path)
  with inputs.on_devices(1):
    train.run(config, tmp_path)
  folder = tmp_path / "apprentice" / "train" / "model"
  learnt = load_apprentice(folder)
  # The way out of a new layer starts at zero: what it learns comes first.
  new = {n: x for n, x in learnt.params.items() if ".adapter.to_out." in n}
  assert new and all(np.asarray(x).any() for x in new.values())
  shown = inputs.draw_examples(1)[0].demonstrations[:2]
  captions = ["a dog"] * len(shown)
  one, other = generate(
    learnt, shown, "a red dog", captions=captions, num=2, steps=2
  )
  assert one.shape == (learnt.backbone.size_px,) * 2 + (3,)
  assert (one != other).any()
  # It stands alone: both text encoders of SDXL are its own.
  parts = {p.name for p in base.iterdir()}
  assert parts - {"unet"} <= {p.name for p in folder.iterdir()}
  conditioning = load_backbone(base).encode_text(["a dog"])
  again = learnt.backbone.encode_text(["a dog"])
  for name, x in conditioning.items():
    np.testing.assert_array_equal(again[name], x)
  assert read_json(folder / "apprentice.json")["base"] == str(base)
