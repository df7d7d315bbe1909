# SPDX-License-Identifier: Apache-2.0
"""An apprentice that is a U-Net with a wider input becomes a plain U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suti.cli import convert as command
from suti.hf.convert import convert
from suti.hf.model import open_model
from suti.hf.weights import save
from suti.io.files import read_json, write_json
from suti.nn.param import functional, init
from suti.nn.surgery import lora, widen
from tests import tiny

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def unet(tiny_backbone):
  return open_model(tiny_backbone / "unet")


def write(folder, module, config):
  spec, _ = functional(module)
  params = init(spec, jax.random.key(1))
  params = {
    name: x + 0.01 if name.endswith("more.weight") else x
    for name, x in params.items()
  }
  write_json(folder / "unet" / "config.json", config)
  save(params, spec, folder / "unet" / FILE, dtype=jnp.float32)
  write_json(folder / "apprentice.json", {"method": "masked"})
  return params


def test_both_weights_of_the_first_convolution_become_one(unet, tmp_path):
  source, out = tmp_path / "source", tmp_path / "out"
  params = write(source, widen(unet.module, "conv_in", 2), unet.config)
  (part,) = convert(source, out)
  opened = open_model(out, expected=("UNet2DConditionModel",))
  own = 3 * tiny.PATCH**2
  assert opened.config["in_channels"] == own + 2
  assert unet.config["in_channels"] == own
  weight = opened.params["conv_in.weight"]
  np.testing.assert_array_equal(weight[..., :own, :], params["conv_in.weight"])
  np.testing.assert_array_equal(
    weight[..., own:, :], params["conv_in.more.weight"]
  )
  for name, array in unet.params.items():
    if name != "conv_in.weight":
      np.testing.assert_array_equal(opened.params[name], params[name])
      assert array.shape == params[name].shape
  assert part.num_parameters == sum(x.size for x in params.values())
  assert sorted(file.name for file in out.iterdir()) == ["config.json", FILE]


def test_the_command_says_what_it_wrote(unet, tmp_path, capsys):
  source, out = tmp_path / "source", tmp_path / "out"
  write(source, widen(unet.module, "conv_in", 1), unet.config)
  command.convert([str(source), str(out), "--dtype", "float16"])
  assert "UNet2DConditionModel" in capsys.readouterr().out
  assert read_json(out / "config.json")["in_channels"] == 13
  opened = open_model(out, dtype=None)
  assert {x.dtype for x in opened.params.values()} == {jnp.dtype("float16")}


def test_other_new_layers_are_refused(unet, tmp_path):
  wide = lora(widen(unet.module, "conv_in", 1), r"to_q$", rank=1)
  write(tmp_path / "source", wide, unet.config)
  with pytest.raises(ValueError) as caught:
    convert(tmp_path / "source", tmp_path / "out")
  assert str(caught.value) == (
    f"{tmp_path / 'source'} is an apprentice, whose layers for demonstrations "
    "exist nowhere else: use it as it is, by `suti generate --subject`."
  )
  assert not (tmp_path / "out").exists()
