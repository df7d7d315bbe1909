# SPDX-License-Identifier: Apache-2.0
"""LoRA files between diffusers, PEFT and us, both ways, with new weights."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.hf.lora import load_lora
from suti.hf.lora_export import save_lora
from suti.hf.lora_names import layer_names
from suti.nn.param import Param
from tests.goldens import loras, theirs, unets
from tests.hf.test_lora import LAYOUTS, SPECS, outputs

SDXL = unets.PUBLISHED["stable-diffusion-xl-base-1.0"]

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", autouse=True)
def _publishers():
  for name in ("torch", "diffusers", "transformers", "peft", "accelerate"):
    pytest.importorskip(name, reason=f"{name} is not installed: [parity]")


def assert_equal(found, expected):
  for part, value in expected.items():
    np.testing.assert_allclose(
      found[part], value, rtol=1e-4, atol=1e-4, err_msg=part
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_they_write_does_the_same_here(layout, tmp_path):
  loras.write(layout, tmp_path, seed="new")
  expected = loras.run(loras.opened(layout, tmp_path))
  updates = load_lora(tmp_path, SPECS)
  assert_equal(outputs(updates, merged=True), expected)
  assert_equal(outputs(updates, merged=False), expected)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_strengths_are_theirs(scale, tmp_path):
  loras.write("diffusers", tmp_path, seed="new")
  pipe = loras.opened("diffusers", tmp_path)
  pipe.fuse_lora(lora_scale=scale)
  pipe.unload_lora_weights()
  updates = load_lora(tmp_path, SPECS)
  assert_equal(outputs(updates, merged=True, scale=scale), loras.run(pipe))


def test_two_together_are_their_sum_as_there(tmp_path):
  for seed, name in enumerate(loras.TWO):
    loras.write(name, tmp_path / name, seed=f"new{seed}")
  expected = loras.run(loras.opened_together(tmp_path))
  updates = [load_lora(tmp_path / name, SPECS) for name in loras.TWO]
  for merged in (True, False):
    found = outputs(*updates, merged=merged, scale=loras.SCALE)
    assert_equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_we_write_does_the_same_there(layout, tmp_path):
  updates = load_lora(loras.FOLDER / layout, SPECS)
  expected = outputs(updates, merged=True)
  save_lora(updates, tmp_path / "diffusers")
  pipe = loras.make_pipeline()
  pipe.load_lora_weights(tmp_path / "diffusers")
  assert_equal(loras.run(pipe), expected)

  pipe = loras.make_pipeline()
  save_lora({"unet": updates["unet"]}, tmp_path / "peft", layout="peft")
  assert_equal(
    loras.run(loras.opened("peft", tmp_path / "peft")),
    {"unet": expected["unet"]},
  )


def test_one_model_opens_ours_without_a_pipeline(tmp_path):
  updates = load_lora(loras.FOLDER / "diffusers", SPECS)
  save_lora({"unet": updates["unet"]}, tmp_path / "expert.safetensors")
  pipe = loras.make_pipeline()
  pipe.unet.load_lora_adapter(tmp_path / "expert.safetensors", prefix="unet")
  expected = outputs(updates, merged=True)
  assert_equal(loras.run(pipe), {"unet": expected["unet"]})


def test_sdxls_layers_have_the_numbers_that_they_read(tmp_path):
  import diffusers
  import torch
  from diffusers.utils import convert_unet_state_dict_to_peft

  with torch.device("meta"):
    unet = diffusers.UNet2DConditionModel(**theirs.diffusers_config(SDXL))
  layers = {
    name: module.weight.ndim
    for name, module in unet.named_modules()
    if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
  }
  spec = {
    f"{name}.weight": Param(
      shape=(1,) * ndim, init=jnp.zeros, axes=(None,) * ndim, torch=""
    )
    for name, ndim in layers.items()
  }
  names = layer_names(spec)
  assert set(names.values()) == set(layers)
  numbered = re.compile(
    r"(input|output)_blocks|middle_block|time_embed_|label|out_"
  )
  order = list(layers)
  tensors = {
    f"lora_unet_{name}.lora_{half}.weight": np.full(
      (1,) * layers[layer], order.index(layer)
    )
    for name, layer in names.items()
    for half in ("down", "up")
    if numbered.match(name)
  }
  safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
  states, _ = diffusers.StableDiffusionXLPipeline.lora_state_dict(
    tmp_path / "x.safetensors", unet_config=unet.config
  )
  states = convert_unet_state_dict_to_peft(states)
  assert {k: int(v) for k, v in states.items()} == {
    f"unet.{layer}.lora_{half}.weight": i
    for i, layer in enumerate(order)
    for half in "AB"
  }
