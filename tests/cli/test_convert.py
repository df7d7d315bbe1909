# SPDX-License-Identifier: Apache-2.0
"""`suti convert`: what it prints, and each mistake in one line.

What becomes of a folder is tests/hf/test_convert.py's, of experts
tests/experts/test_export.py's.
"""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy

from suti.cli.convert import short
from suti.hf import convert
from suti.io.files import read_json, write_json
from tests import tiny
from tests.commands import error_of, start
from tests.experts.test_export import KEYS, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny.write_latent_backbone(tmp_path_factory.mktemp("latent"))


def test_a_model_is_listed_part_by_part(capsys, model, tmp_path):
  source, out = tmp_path / "source", tmp_path / "out"
  shutil.copytree(model, source)
  (source / "README.md").write_text("# A card")
  (source / "samples").mkdir()
  assert start("convert", source, out, "--max-gb", "0.0001") == 0
  captured = capsys.readouterr()
  assert captured.out.splitlines() == [
    "  .                      1 file of text",
    "  samples                left out",
    "  scheduler              1 file of text",
    "  text_encoder           "
    "CLIPTextModel, 7.63k parameters, 32.7 kB in 1 file",
    "  tokenizer              2 files of text",
    "  unet                   "
    "UNet2DConditionModel, 66k parameters, 286 kB in 3 files",
    "  vae                    "
    "AutoencoderKL, 17.6k parameters, 82.6 kB in 1 file",
    f"Wrote {out}: 402 kB of weights, every tensor checked.",
  ]
  assert "unet  208/208" in captured.err, "progress, tensor by tensor"


@pytest.mark.parametrize("name", ["README.md", "vae/notes.txt"])
def test_a_text_that_is_too_large_is_not_passed_over(
  capsys, model, tmp_path, monkeypatch, name
):
  source = tmp_path / "source"
  shutil.copytree(model, source)
  monkeypatch.setattr(convert, "_MAX_TEXT_BYTES", 1 << 20)
  (source / name).write_text(" " * (3 << 20))
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert f"{source / name} has 3 MB, and a text of a model at most 1" in line
  assert not (tmp_path / "out").exists()


def test_a_lone_model(capsys, tmp_path):
  source = tiny.write_clip(tmp_path / "clip")
  assert start("convert", source, tmp_path / "out", "--dtype", "float16") == 0
  assert "  .                      CLIPModel, 13.6k" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("number", "text"),
  [(12, "12"), (7632, "7.63k"), (859.5e6, "860M"), (2567463684, "2.57G")],
)
def test_numbers_are_short(number, text):
  assert short(number) == text


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya"])
def test_experts_of_a_run(capsys, tmp_path, layout):
  folder, out = tmp_path / "experts" / "finetune", tmp_path / "out"
  write(folder)
  end = "" if layout == "peft" else ".safetensors"
  assert start("convert", folder, out, "--to", layout) == 0
  assert capsys.readouterr().out == (
    f"Wrote {out / KEYS[0]}{end} to {KEYS[-1]}{end}: 3 experts as LoRA.\n"
  )
  one = tmp_path / "one"
  chosen = ("--to", layout, "--expert", KEYS[1])
  assert start("convert", folder, one, *chosen) == 0
  out = capsys.readouterr().out
  assert out == f"Wrote {one / KEYS[1]}{end}: one as LoRA.\n"


# --- Mistakes ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("options", "text"),
  [
    (["--to", "onnx"], "--to=onnx: use diffusers, peft or kohya."),
    (
      ["--to", "peft"],
      "--to=peft is for experts: give the workdir of a run.",
    ),
    (["--expert", "0a"], "--expert is for experts: give the workdir of a run."),
    (["--dtype", "int8"], "--dtype=int8: use float32, bfloat16, float16."),
    (["--max-gb", "0"], "--max-gb=0.0: give a number above 0."),
    (["--max-gb", "nan"], "--max-gb=nan: give a number above 0."),
    (["--max-gb", "inf"], "--max-gb=inf: give a number above 0."),
    (
      ["--max-gb", "x"],
      "argument --max-gb: invalid float value: 'x' (see suti",
    ),
    (["--dtyp", "x"], "unrecognized arguments: --dtyp x (see suti convert -"),
  ],
)
def test_options(capsys, model, tmp_path, options, text):
  line = error_of(capsys, "convert", model, tmp_path / "out", *options)
  assert line.startswith(f"Error: {text}")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("argv", "flag"),
  [
    (["convert", "models/sd15", "gs://b/out"], "OUT"),
    (["demo", "--space", "gs://b/out"], "--space"),
    (["push", "runs/q", "me/it", "--folder", "gs://b/out"], "--folder"),
  ],
)
def test_what_is_written_here_is_not_written_into_a_folder_called_gs(
  capsys, tmp_path, monkeypatch, argv, flag
):
  monkeypatch.chdir(tmp_path)
  line = error_of(capsys, *argv)
  assert line == (
    f"Error: {flag}=gs://b/out is in a bucket, where this is not written: give "
    "a folder of this machine."
  )
  assert not list(tmp_path.iterdir())


def test_options_that_are_not_for_experts(capsys, tmp_path):
  write(tmp_path / "finetune")
  for option, value in (("--dtype", "float16"), ("--max-gb", "1")):
    line = error_of(
      capsys,
      "convert",
      tmp_path / "finetune",
      tmp_path / "out",
      option,
      value,
    )
    assert line.startswith(f"Error: {option} is for whole models: leave it out")


def test_arguments_that_are_missing(capsys):
  line = error_of(capsys, "convert")
  assert line.startswith("Error: the following arguments are required: PATH_OR")


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CONTENTS = (  # of one file, and what is said of it
  (WEIGHTS, b"", "is not a whole safetensors file (it is empty)"),
  (
    WEIGHTS,
    b"version https://git-lfs",
    "(it is a git-lfs pointer: run `git lf",
  ),
  ("unet/config.json", b"{", "is not a JSON file ("),
  ("unet/config.json", b"[]", "holds no JSON object, as a config does"),
  ("vae/config.json", b"[" * 100_000, "is not a JSON file ("),
  ("model_index.json", b"3", "holds no JSON object, as a config does"),
)
VALUES = (  # of one key of the U-Net's config
  ("block_out_channels", [8, -16], "must be a list, of which each is a whole"),
  ("block_out_channels", 8, "must be a list, of which each is a whole number"),
  ("block_out_channels", [8], "needing as many down and up blocks, and lists"),
  ("cross_attention_dim", "16", "of a U-Net must be a whole number from 1:"),
  ("cross_attention_dim", [16], "is not supported in cross_attention_dim=[16]"),
  ("layers_per_block", 10**9, "must be a whole number from 1 to 1000"),
  ("norm_num_groups", 0, "must be a whole number from 1"),
  ("norm_num_groups", 3, "norm_num_groups=3 does not divide a width of 8"),
  ("attention_head_dim", [1, 3], "attention_head_dim=3 (the number of heads)"),
  ("act_fn", None, "act_fn=None of a U-Net must be a text"),
  ("down_block_types", ["x", "y"], "is not supported in down_block_types"),
  ("_class_name", 3, "_class_name=3 of "),
  ("_class_name", "LDMModel", "is a LDMModel: expected UNet2DConditionModel"),
  ("_class_name", "AutoencoderKL", "This autoencoder config is not supported"),
  ("center_input_sample", 1, "must be true or false"),
)


@pytest.fixture
def source(model, tmp_path):
  return shutil.copytree(model, tmp_path / "source")


@pytest.mark.parametrize(("name", "content", "text"), CONTENTS)
def test_a_damaged_file(capsys, source, tmp_path, name, content, text):
  (source / name).write_bytes(content)
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert text in line and str(source / name) in line
  assert not (tmp_path / "out").exists()


def test_a_truncated_file(capsys, source, tmp_path):
  content = (source / WEIGHTS).read_bytes()
  for size in (5, 99, len(content) // 2, len(content) - 1):
    (source / WEIGHTS).write_bytes(content[:size])
    line = error_of(capsys, "convert", source, tmp_path / "out")
    assert f"{source / WEIGHTS} is not a whole safetensors file (" in line


def test_a_value_that_makes_no_sense(capsys, source, tmp_path):
  file = source / "unet" / "config.json"
  config = read_json(file)
  for key, value, text in VALUES:
    write_json(file, config | {key: value})
    line = error_of(capsys, "convert", source, tmp_path / "out")
    assert text in line, (key, value)
    assert str(file.parent) in line, "which file it is"
  file.write_text(json.dumps(config | {"norm_eps": float("nan")}))
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert "norm_eps=nan of a U-Net must be a number from 0" in line


def test_weights_of_another_size_or_family(capsys, source, tmp_path):
  file = source / "unet" / "config.json"
  config = read_json(file)
  write_json(file, config | {"cross_attention_dim": 8})
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert "do not fit, e.g. 'down_blocks.1.attentions.0.transformer_bl" in line
  write_json(file, config)
  shutil.copy(source / "text_encoder" / "model.safetensors", source / WEIGHTS)
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert "looks like a CLIP text encoder, the config says a text-to-image" in (
    line
  )


def test_a_family_is_recognised_by_its_weights(capsys, model, tmp_path):
  """Weights of SDXL beside a config of Stable Diffusion 1."""
  source = tmp_path / "unet"
  config = read_json(model / "unet" / "config.json")
  write_json(source / "config.json", config | {"cross_attention_dim": 768})
  shapes = {
    "conv_in.weight": (8, 4, 3, 3),
    "add_embedding.linear_1.weight": (8, 16),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (
      16,
      2048,
    ),
  }
  safetensors.numpy.save_file(
    {name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
    source / "model.safetensors",
  )
  line = error_of(capsys, "convert", source, tmp_path / "out")
  assert line.endswith(
    "it looks like a U-Net of SDXL, the config says a U-Net of Stable "
    "Diffusion 1."
  )


def test_shards_that_are_missing_or_elsewhere(capsys, model, tmp_path):
  many = tmp_path / "many"
  start("convert", model, many, "--max-gb", "0.0001")
  index = next((many / "unet").glob("*.index.json"))
  shard = sorted((many / "unet").glob("*.safetensors"))[1]
  shard.rename(tmp_path / shard.name)
  line = error_of(capsys, "convert", many, tmp_path / "out")
  assert f"{index} names {shard.name}, which should hold" in line
  index_then = read_json(index)
  for name in index_then["weight_map"]:
    index_then["weight_map"][name] = f"../../{shard.name}"
  write_json(index, index_then)
  line = error_of(capsys, "convert", many, tmp_path / "out")
  assert "leads out of its folder, and is refused: fetch the model from" in line


def test_what_is_no_models_folder(capsys, model, tmp_path):
  def line(source) -> str:
    return error_of(capsys, "convert", source, tmp_path / "out")

  nothing = tmp_path / "nothing"
  nothing.mkdir()
  assert f"{nothing} has no config.json: expected a published model" in (
    line(nothing)
  )
  assert line(tmp_path / "none").startswith(
    f"Error: No model '{tmp_path}/none'"
  )
  file = tmp_path / "notes.txt"
  file.write_text("hello")
  assert "is not a .safetensors file. Pickles (.bin, .pt, .ckpt) can" in (
    line(file)
  )
  pickles = tmp_path / "pickles"
  pickles.mkdir()
  shutil.copy(model / "vae" / "config.json", pickles)
  (pickles / "diffusion_pytorch_model.bin").write_bytes(b"PK")
  assert "has no .safetensors file, only diffusion_pytorch_model.bin" in (
    line(pickles)
  )


def test_weights_without_a_config_are_recognised(capsys, model, tmp_path):
  def line(source) -> str:
    return error_of(capsys, "convert", source, tmp_path / "out")

  lone = tmp_path / "vae.safetensors"
  vae = model / "vae" / "diffusion_pytorch_model.safetensors"
  shutil.copy(vae, lone)
  assert line(lone) == (
    f"Error: {lone} is a file and holds an AutoencoderKL: put the config.json "
    "that was published with it beside it (expected a published model's "
    "folder, with config.json beside its .safetensors)."
  )
  folder = tmp_path / "folder"
  folder.mkdir()
  lone.rename(folder / "vae.safetensors")
  assert f"{folder} has no config.json and holds an AutoencoderKL: put" in (
    line(folder)
  )
  lora = tmp_path / "lora.safetensors"
  zeros = np.zeros((2, 2), np.float32)
  safetensors.numpy.save_file({"unet.a.lora_A.weight": zeros}, lora)
  assert (
    "holds a LoRA: sample with it by `suti generate --model BASE --lora"
    in (line(lora))
  )
  adapter = tmp_path / "ip-adapter_sd15.safetensors"
  names = ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight")
  safetensors.numpy.save_file(dict.fromkeys(names, zeros), adapter)
  assert (
    "holds an IP-Adapter: sample with it by `suti generate --model BASE --ad"
    in line(adapter)
  )
  whole = tmp_path / "v1-5-pruned.safetensors"
  safetensors.numpy.save_file(
    {"model.diffusion_model.out.0.weight": zeros}, whole
  )
  assert "holds an original checkpoint of a whole model (one file, not of " in (
    line(whole)
  )
  assert "give the same model in the layout of diffusers, a folder" in (
    line(whole)
  )
  other = tmp_path / "other.safetensors"
  safetensors.numpy.save_file({"a": zeros, "b": zeros}, other)
  assert "holds 2 tensors of an unknown model: put the config" in line(other)


def test_a_workdir_is_told_from_a_model(capsys, tmp_path):
  run = tmp_path / "run"
  (run / "experts" / "finetune").mkdir(parents=True)
  line = error_of(capsys, "convert", run, tmp_path / "out")
  assert line == (
    f"Error: {run} is the workdir of a run that has no finished experts: run "
    "experts.finetune first."
  )
  write(run / "experts" / "finetune")
  assert start("convert", run, tmp_path / "out") == 0
  assert "3 experts as LoRA" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_others(capsys, model, tmp_path):
  (tmp_path / "theirs").mkdir(mode=0o500)
  line = error_of(capsys, "convert", model, tmp_path / "theirs" / "out")
  assert "which is no folder or not yours to write" in line
