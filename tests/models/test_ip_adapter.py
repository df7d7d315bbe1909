# SPDX-License-Identifier: Apache-2.0
"""What a U-Net makes of pictures, beyond the goldens of the family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from suti.hf.weights import load, save
from suti.models.ip_adapter import ImagePrompt, declare_ip_adapter, decouple
from suti.models.unet import declare_unet
from suti.nn.param import functional, init, without
from suti.nn.surgery import lora, merge
from tests.goldens import drawing, unets
from tests.goldens.families import ip_adapter as family
from tests.goldens.ours import drawn
from tests.models.test_goldens import GOLDENS

CASE = "ip_adapter"
CONFIG = family.CASES[CASE][0]


@pytest.fixture(scope="module")
def ours():
  """Values of the case, the adapter's function and arrays, two U-Nets."""
  module = family.declare(CONFIG)
  spec, adapter = functional(module)
  base_spec, base = functional(declare_unet(family.UNET))
  unet_spec, unet = functional(decouple(declare_unet(family.UNET), module))
  assert unet_spec == base_spec
  values = family.inputs(CASE)
  params = init(unet_spec, jax.random.key(0))
  arguments = [jnp.asarray(values[name]) for name in ("x", "t", "text")]

  @jax.jit
  def run_unet(prompt):
    return unet(params, *arguments, context=prompt)

  return {
    "images": jnp.asarray(values["images"]),
    "adapter": adapter,
    "params": init(spec, jax.random.key(1)),
    "base": jax.jit(lambda: base(params, *arguments))(),
    "arguments": arguments,
    "unet_params": params,
    "unet": run_unet,
  }


def test_without_weight_or_without_a_picture_it_is_the_base(ours):
  keys_values = ours["adapter"](ours["params"], ours["images"])
  np.testing.assert_array_equal(ours["unet"](None), ours["base"])
  # Another program, which may round otherwise.
  none = ours["unet"](ImagePrompt(keys_values, 0.0))
  np.testing.assert_allclose(none, ours["base"], atol=1e-6)
  other = ours["unet"](ImagePrompt(keys_values, 1.0))
  assert np.abs(other - ours["base"]).max() > 1e-3


def test_the_order_of_the_pictures_does_not_matter_and_each_counts(ours):
  def draw(images):
    keys_values = ours["adapter"](ours["params"], images)
    return ours["unet"](ImagePrompt(keys_values, 1.0))

  images_BKD = ours["images"]
  found = draw(images_BKD)
  np.testing.assert_allclose(draw(images_BKD[:, ::-1]), found, atol=1e-5)
  # Three times the same picture is that picture.
  first_BKD = images_BKD[:, :1]
  np.testing.assert_allclose(
    draw(jnp.tile(first_BKD, (1, 3, 1))), draw(first_BKD), atol=1e-5
  )
  assert np.abs(draw(first_BKD) - found).max() > 1e-3


def test_an_expert_beside_it_is_the_expert_merged_into_its_base(ours):
  base = ours["unet_params"]
  unet = decouple(declare_unet(family.UNET), family.declare(CONFIG))
  spec, apply = functional(lora(unet, r"attn\d\.to_(q|v|out\.0)$", rank=2))
  update = init(without(spec, base), jax.random.key(2))
  update = {n: x if ".lora_A." in n else x + 0.1 for n, x in update.items()}
  none = jax.tree.map(jnp.zeros_like, update)
  keys_values = ours["adapter"](ours["params"], ours["images"])
  prompt = ImagePrompt(keys_values, 1.0)
  run = jax.jit(lambda p: apply(p, *ours["arguments"], context=prompt))
  beside, merged = run(base | update), run(merge(base, update) | none)
  np.testing.assert_allclose(beside, merged, atol=1e-5)
  assert np.abs(beside - run(base | none)).max() > 1e-3


@pytest.mark.parametrize("case", family.CASES)
def test_tokens_are_the_publishers_to_the_last_digits(case):
  spec, apply = functional(family.declare(family.CASES[case][0]))
  stored = GOLDENS / f"{case}.safetensors"
  tokens = apply(drawn(spec), family.inputs(case)["images"], method="tokens")
  expected = safetensors.numpy.load_file(stored)["tokens"]
  np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", family.CASES)
def test_a_file_is_declared_from_its_shapes_and_written_as_it_was(
  case, tmp_path
):
  tensors = drawing.weights(family.shapes(family.CASES[case][0]))
  safetensors.numpy.save_file(
    tensors, tmp_path / "a.safetensors", metadata={"format": "pt"}
  )
  with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
    names = list(file.keys())
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
  spec, _ = functional(declare_ip_adapter(shapes))
  params = load(spec, tmp_path / "a.safetensors")
  save(params, spec, tmp_path / "b.safetensors")
  written = (tmp_path / "b.safetensors").read_bytes()
  assert written == (tmp_path / "a.safetensors").read_bytes()


def test_a_real_model_takes_its_own_file_and_no_other():
  sd15 = "16 cross-attentions, 320 to 1280 wide", "16, 320 to 1280 wide"
  sdxl = "70 cross-attentions, 640 to 1280 wide", "70, 640 to 1280 wide"
  for model, own, other, theirs, its in (
    ("stable-diffusion-v1-5", "sd15", "sdxl", sdxl[0], sd15[1]),
    ("stable-diffusion-xl-base-1.0", "sdxl", "sd15", sd15[0], sdxl[1]),
  ):
    unet = declare_unet(unets.PUBLISHED[model])
    for name, config in family.PUBLISHED.items():
      if own in name:
        decouple(unet, family.declare(config))
    with pytest.raises(ValueError) as caught:
      decouple(unet, family.declare(family.PUBLISHED[f"ip-adapter_{other}"]))
    assert str(caught.value) == (
      f"This IP-Adapter is for a U-Net of {theirs}, and the model has {its}: "
      "use the file for this model's family."
    )


@pytest.mark.parametrize(
  ("name", "others"),
  [
    ("image_proj.perceiver_resampler.proj_in.weight", family.shapes(CONFIG)),
    ("ip_adapter.0.to_q_lora.down.weight", family.shapes(CONFIG)),
    ("conv_in.weight", {}),
  ],
)
def test_other_files_are_refused(name, others):
  shapes = others | {name: (4, 4)}
  with pytest.raises(ValueError, match="no IP-Adapter that can be read") as e:
    declare_ip_adapter(shapes)
  assert f"({name!r})" in str(e.value)
  assert "FaceID cannot" in str(e.value)
