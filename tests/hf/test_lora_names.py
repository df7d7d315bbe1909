# SPDX-License-Identifier: Apache-2.0
"""Names in LoRA files, of whichever tool, and the layers they stand for."""

import gzip
import json

import jax.numpy as jnp
import numpy as np
import pytest

from suti.hf.lora import load_lora
from suti.hf.lora_names import Half, find_layers, layer_names, split_name
from suti.nn.param import Param
from tests.goldens import loras
from tests.hf.test_lora import (
  DOWN,
  SPECS,
  UP,
  assert_same,
  pair,
  refusal,
  write,
)


def real_spec(model):
  path = loras.FOLDER.parent / "index" / "unet.json.gz"
  index = json.loads(gzip.decompress(path.read_bytes()))[model]
  return {
    name: Param(
      shape=tuple(shape),
      init=jnp.zeros,
      axes=(None,) * len(shape),
      torch="" if len(shape) > 1 else None,
    )
    for name, shape in index.items()
  }


@pytest.mark.parametrize(
  "model",
  [
    "stable-diffusion-v1-5",
    "stable-diffusion-2-1",
    "stable-diffusion-xl-base-1.0",
  ],
)
def test_real_models_have_no_two_layers_of_one_name(model):
  spec = real_spec(model)
  found = layer_names(spec)
  layers = {
    name.removesuffix(".weight") for name, p in spec.items() if p.torch == ""
  }
  assert {k.replace(".", "_"): k for k in layers}.items() <= found.items()
  assert set(found.values()) == layers


@pytest.mark.parametrize(
  ("name", "layer"),
  [
    (
      "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
      "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ),
    (
      "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
      "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    ),
    # Stability AI's numbers, as in SDXL's files (here of a net of four levels).
    (
      "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0",
      "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
    ),
    ("lora_unet_input_blocks_5_0_in_layers_2", "down_blocks.1.resnets.1.conv1"),
    ("lora_unet_input_blocks_6_0_op", "down_blocks.1.downsamplers.0.conv"),
    ("lora_unet_middle_block_2_0_out_layers_3", None),
    ("lora_unet_middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
    ("lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"),
    (
      "lora_unet_output_blocks_8_1_transformer_blocks_0_attn1_to_v",
      "up_blocks.2.attentions.2.transformer_blocks.0.attn1.to_v",
    ),
    ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
    (
      "lora_unet_output_blocks_9_0_skip_connection",
      "up_blocks.3.resnets.0.conv_shortcut",
    ),
    ("lora_unet_out_2", "conv_out"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1", None),
  ],
)
def test_kohyas_names(name, layer):
  places = {"unet": layer_names(real_spec("stable-diffusion-v1-5"))}
  assert find_layers(name, places) == ([("unet", layer)] if layer else [])


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("base_model.model.a.lora_A.weight", ("base_model.model.a", "A")),
    ("unet.a.to_q.lora_B.default.weight", ("unet.a.to_q", "B", "default")),
    ("unet.a.to_q.lora_A.rex_2.weight", ("unet.a.to_q", "A", "rex_2")),
    ("a.to_q.lora_A", ("a.to_q", "A")),
    ("a.to_q.lora_A.default", None),
    ("unet.a.to_q.lora.up.weight", ("unet.a.to_q", "B")),
    ("unet.a.processor.to_q_lora.down.weight", ("unet.a.to_q", "A")),
    ("text_encoder.a.lora_linear_layer.up.weight", ("text_encoder.a", "B")),
    ("lora_te1_a_b.lora_down.weight", ("lora_te1_a_b", "A")),
    ("lora_te1_a_b.alpha", ("lora_te1_a_b", "alpha")),
    ("unet.a.weight", None),
    ("unet.a.lora_B.bias", None),
  ],
)
def test_names_of_tensors(name, split):
  assert split_name(name) == (split and Half(*split))


# --- What tools put around a layer's name -------------------------------------

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = np.ones((2, 12), np.float32), np.full((12, 2), 0.5, np.float32)


def read(names, tmp_path, specs=SPECS):
  """An update of one layer, whose two tensors have these names."""
  tensors = dict(zip(names, (A, B), strict=True))
  return load_lora(write(tmp_path / "x.safetensors", tensors), specs)


@pytest.mark.parametrize(
  "start",
  [
    "",
    "unet.",
    "unet.unet.",
    "unet._orig_mod.",
    "_orig_mod.",
    "module.",
    "base_model.model.",
    "base_model.model._orig_mod.",
    "base_model.model.unet.",
    "unet.base_model.model.",
    "diffusion_model.",
    "model.diffusion_model.",
    "unet._fsdp_wrapped_module.",
  ],
)
@pytest.mark.parametrize("adapter", ["", ".default", ".default_0", ".rex"])
def test_an_update_is_read_whatever_stands_around_its_name(
  start, adapter, tmp_path
):
  names = [f"{start}{LAYER}.lora_{half}{adapter}.weight" for half in "AB"]
  plain = [f"unet.{LAYER}.lora_{half}.weight" for half in "AB"]
  assert_same(read(names, tmp_path), read(plain, tmp_path))


@pytest.mark.parametrize(
  ("down", "up"),
  [
    ("lora_A", "lora_B"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
  ],
)
def test_halves_have_several_names(down, up, tmp_path):
  names = [f"diffusion_model.{LAYER}.{half}" for half in (down, up)]
  plain = [f"unet.{LAYER}.lora_{half}.weight" for half in "AB"]
  assert_same(read(names, tmp_path), read(plain, tmp_path))


def test_wrappers_stand_at_any_depth(tmp_path):
  inner = LAYER.replace(".attn1", "._checkpoint_wrapped_module.attn1")
  names = [f"unet.{inner}.lora_{half}.weight" for half in "AB"]
  assert f"{LAYER}.lora_A.weight" in read(names, tmp_path)["unet"]


@pytest.mark.parametrize(
  "start",
  [
    "text_encoder.text_model.",
    "text_encoder.",
    "text_encoder.base_model.model.text_model.",
    "text_encoders.clip_l.transformer.text_model.",
    "base_model.model.text_model.",
  ],
)
def test_text_encoders_are_named_in_several_ways(start, tmp_path):
  layer = "encoder.layers.0.self_attn.q_proj"
  width = SPECS["text_encoder"][f"text_model.{layer}.weight"].shape[0]
  tensors = pair(f"{start}{layer}", np.ones((2, width)), np.ones((width, 2)))
  found = load_lora(write(tmp_path / "x.safetensors", tensors), SPECS)
  assert list(found) == ["text_encoder"]
  assert f"text_model.{layer}.lora_A.weight" in found["text_encoder"]


def test_a_name_of_two_text_encoders_is_of_the_one_that_it_fits(tmp_path):
  def spec(width):
    p = Param(
      shape=(width, width),
      init=jnp.zeros,
      axes=(None, None),
      torch="o i -> i o",
    )
    return {"encoder.layers.0.mlp.fc1.weight": p}

  tensors = pair("encoder.layers.0.mlp.fc1", np.ones((2, 6)), np.ones((6, 2)))
  file = write(tmp_path / "x.safetensors", tensors)
  specs = {"text_encoder": spec(4), "text_encoder_2": spec(6)}
  assert list(load_lora(file, specs)) == ["text_encoder_2"]
  specs["text_encoder"] = spec(6)
  assert refusal(file, specs) == (
    "FILE does not say which model it changes: "
    "'encoder.layers.0.mlp.fc1.lora_A.weight' fits text_encoder and "
    "text_encoder_2 alike. Put 'text_encoder.' before its names, with the tool "
    "that made it."
  )


def test_two_adapters_of_one_file_are_not_one(tmp_path):
  names = [f"unet.{LAYER}.lora_{{}}.{name}.weight" for name in ("rex", "tom")]
  tensors = {n.format(h): x for n in names for h, x in (("A", A), ("B", B))}
  file = write(tmp_path / "x.safetensors", tensors)
  assert refusal(file) == (
    "FILE holds 2 LoRAs, the adapters 'rex', 'tom': save each to a file of its "
    "own."
  )
  both = pair(f"unet.{LAYER}", A, B) | pair(f"lora_unet_{LAYER}", A, B)
  text = refusal(write(tmp_path / "x.safetensors", both))
  assert text.startswith(f"FILE holds two LoRAs of unet.{LAYER}: '")


def test_a_folder_of_adapters(tmp_path):
  """As PEFT saves those that have a name of their own."""
  for name in ("rex", "tom"):
    folder = tmp_path / "all" / name
    folder.mkdir(parents=True)
    tensors = pair(f"base_model.model.{LAYER}", A, B)
    write(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
  assert refusal(tmp_path / "all") == (
    "FILE has 2 .safetensors files (rex/adapter_model.safetensors, "
    "tom/adapter_model.safetensors): give the LoRA's own."
  )
  assert "unet" in load_lora(tmp_path / "all" / "rex", SPECS)
  for file in (tmp_path / "all" / "tom").iterdir():
    file.unlink()
  assert "unet" in load_lora(tmp_path / "all", SPECS)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("transformer.single_transformer_blocks.0.attn.to_q", "diffusion transf"),
    ("lora_unet_double_blocks_0_img_attn_qkv", "a diffusion transformer (Flux"),
    ("diffusion_model.joint_blocks.0.x_block.attn.qkv", "a diffusion transf"),
    ("base_model.model.model.layers.0.self_attn.q_proj", "a language model."),
  ],
)
def test_the_other_model_is_named_where_it_is_known(name, text, tmp_path):
  file = write(tmp_path / "x.safetensors", pair(name, DOWN, UP))
  found = refusal(file)
  assert found.startswith("FILE is a LoRA of another model: 1 of its 1 layers")
  assert f"Its names are those of {text}" in found or text in found


def test_a_unets_own_names_are_not_those_of_another_model(tmp_path):
  tensors = pair("unet.up_blocks.9.attentions.0.transformer_blocks.0.ff.net.2")
  text = refusal(write(tmp_path / "x.safetensors", tensors))
  assert "transformer (Flux" not in text and "is not one of its layers" in text
