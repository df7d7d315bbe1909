# SPDX-License-Identifier: Apache-2.0
"""Names of older and other files, and the one line that tells all misfits."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.hf.layout import published_shape
from suti.hf.matching import rename
from suti.hf.weights import load
from suti.models import vae
from suti.models.unet import declare_unet
from suti.nn.layers import Conv2d, Embed, Linear
from suti.nn.param import Module, ModuleList, functional
from tests import tiny

HUB_DINO = {
  r"^blocks\.(\d+)\.attn\.qkv\.": (
    r"encoder.layer.\1.attention.attention.query.",
    r"encoder.layer.\1.attention.attention.key.",
    r"encoder.layer.\1.attention.attention.value.",
  ),
}


class Net(Module):
  def __init__(self):
    self.conv = Conv2d(6, 4, 1)
    self.out = ModuleList([Linear(4, 3)])


class Attention(Module):
  def __init__(self):
    self.query, self.key, self.value = (Linear(4, 4) for _ in range(3))


class Table(Module):
  def __init__(self):
    self.shared = Embed(5, 2)


def draw(shapes):
  return {
    name: np.random.standard_normal(shape).astype(np.float32)
    for name, shape in shapes.items()
  }


NET = {
  "conv.weight": (4, 6, 1, 1),
  "conv.bias": (4,),
  "out.0.weight": (3, 4),
  "out.0.bias": (3,),
}


def read(module, tensors, folder, **options):
  path = folder / "a.safetensors"
  safetensors.numpy.save_file(tensors, path)
  return load(functional(module)[0], path, **options)


def refusal(module, tensors, folder, **options):
  with pytest.raises(ValueError) as error:
    read(module, tensors, folder, **options)
  text = str(error.value)
  assert "\n" not in text
  return text


def test_names_are_renamed_in_turn():
  renames = {r"^net\.": "", r".*\.position_ids$": "", r"^": "x."}
  assert rename("net.a", renames) == ["x.a"]
  assert rename("net.a.position_ids", renames) == [""]
  assert rename("blocks.3.attn.qkv.bias", HUB_DINO | {"encoder.": ""}) == [
    f"layer.3.attention.attention.{part}.bias"
    for part in ("query", "key", "value")
  ]


def test_one_tensor_becomes_three(tmp_path):
  tensors = draw({"qkv.weight": (12, 4), "qkv.bias": (12,)})
  cut = {r"^qkv\.": ("query.", "key.", "value.")}
  params = read(Attention(), tensors, tmp_path, renames=cut)
  for i, name in enumerate(("query", "key", "value")):
    rows = slice(4 * i, 4 * i + 4)
    np.testing.assert_array_equal(
      params[f"{name}.weight"], tensors["qkv.weight"][rows].T
    )
    np.testing.assert_array_equal(
      params[f"{name}.bias"], tensors["qkv.bias"][rows]
    )
  tensors["qkv.bias"] = np.zeros(11, np.float32)
  assert "3 do not fit, e.g. 'qkv.bias' is (11,) in the file and (4,) in" in (
    refusal(Attention(), tensors, tmp_path, renames=cut)
  )


def test_either_of_two_names_is_enough(tmp_path):
  table = draw({"table": (5, 2)})["table"]
  alias = {r"^encoder\.embed_tokens\.": "shared."}
  names = ("shared.weight", "encoder.embed_tokens.weight")
  for given in (names[:1], names[1:], names):
    tensors = {name: table for name in given}
    params = read(Table(), tensors, tmp_path, renames=alias)
    np.testing.assert_array_equal(params["shared.weight"], table)
  for other in (table + 1, table.astype(np.float16)):
    tensors = {names[0]: table, names[1]: other}
    assert re.search(
      r"1 damaged tensors: '.*weight' and '.*weight' are one parameter, but"
      " differ; fetch",
      refusal(Table(), tensors, tmp_path, renames=alias),
    )


def test_a_matrix_serves_as_a_small_convolution_and_back(tmp_path):
  tensors = draw(NET)
  expected = read(Net(), tensors, tmp_path)
  tensors["conv.weight"] = tensors["conv.weight"][:, :, 0, 0]
  tensors["out.0.weight"] = tensors["out.0.weight"][:, :, None, None]
  found = read(Net(), tensors, tmp_path)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("dims", [2, 4])
def test_old_autoencoders_are_read(dims, tmp_path):
  """Their attention had other names, and convolutions at first."""
  module = vae.declare_autoencoder(tiny.VAE)
  spec, _ = functional(module)
  tensors = draw({name: published_shape(p) for name, p in spec.items()})
  expected = read(module, tensors, tmp_path)
  for new, old in (
    ("to_q", "query"),
    ("to_k", "key"),
    ("to_v", "value"),
    ("to_out.0", "proj_attn"),
  ):
    for part in ("encoder", "decoder"):
      prefix = f"{part}.mid_block.attentions.0"
      weight = tensors.pop(f"{prefix}.{new}.weight")
      tensors[f"{prefix}.{old}.weight"] = weight.reshape(
        *weight.shape, *(1,) * (dims - 2)
      )
      tensors[f"{prefix}.{old}.bias"] = tensors.pop(f"{prefix}.{new}.bias")
  found = read(module, tensors, tmp_path, renames=vae.RENAMES)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)


def test_everything_that_differs_is_in_one_message(tmp_path):
  tensors = draw(NET | {"add.weight": (3,), "add.bias": (3,)})
  del tensors["out.0.bias"]
  tensors["out.0.weight"] = tensors["out.0.weight"].T.copy()
  tensors["conv.bias"] = np.arange(4)
  text = refusal(Net(), tensors, tmp_path)
  assert text == (
    f"{tmp_path / 'a.safetensors'} does not hold this model: 1 of the model's "
    "4 parameters are absent, e.g. 'out.0.bias'; 2 of the file's 5 tensors are "
    "not of the model, e.g. 'add.bias'; 2 do not fit, e.g. 'conv.bias' is of "
    "I64 where one of F64, F32, BF16, F16 is expected; is it the config of "
    "these weights?"
  )


def test_a_file_of_another_family_is_recognised(tmp_path):
  """By its stored names, against what the config declares."""
  sizes = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}
  sd1 = declare_unet(sizes | {"cross_attention_dim": 768})
  sdxl = {
    "add_embedding.linear_1.weight": (4, 4),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (8, 2048),
  }
  text = refusal(sd1, draw(sdxl), tmp_path)
  assert text.endswith(
    "it looks like a U-Net of SDXL, the config says a U-Net of Stable "
    "Diffusion 1."
  )
  assert ": 681 of the model's 682 parameters are absent" in text
  lora = {"unet.mid_block.attentions.0.to_q.lora_A.weight": (2, 4)}
  assert refusal(Net(), draw(lora), tmp_path).endswith(
    "it looks like a LoRA: is it the config of these weights?"
  )


def test_left_out_tensors_may_be_of_any_dtype(tmp_path):
  tensors = draw(NET) | {"x.position_ids": np.arange(77)[None]}
  params = read(Net(), tensors, tmp_path, renames={r".*\.position_ids$": ""})
  assert {value.dtype for value in params.values()} == {jnp.dtype("float32")}
