# SPDX-License-Identifier: Apache-2.0
"""LoRAs by their names on the hub, through its real client and a hub here."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants

from suti.cli.text_only import read_lora
from suti.hf.hub_lora import HubLora, read_name
from tests import tiny
from tests.commands import error_of, start
from tests.hf.hub_server import COMMIT, REPO

LAYER = (
  "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
)


def lora(file):
  file.parent.mkdir(parents=True, exist_ok=True)
  # Of each file its own values: the client's cache knows files by content.
  rng = np.random.default_rng(len(file.name))
  tensors = {
    f"{LAYER}.lora_A.weight": rng.normal(size=(2, 16)).astype(np.float32),
    f"{LAYER}.lora_B.weight": rng.normal(size=(16, 2)).astype(np.float32),
  }
  safetensors.numpy.save_file(tensors, file)


@pytest.fixture
def published(tmp_path):
  """A repository of one LoRA, and of what is beside it."""
  folder = tmp_path / "published"
  lora(folder / "pytorch_lora_weights.safetensors")
  for name in ("README.md", "sample.png", "optimizer.bin", "config.yaml"):
    (folder / name).write_text(name)
  return folder


def refusal(text):
  with pytest.raises(ValueError) as error:
    read_lora(text)
  line = str(error.value)
  assert "\n" not in line
  return line


@pytest.mark.parametrize(
  ("text", "there"),
  [
    ("org/name", HubLora("org/name", "")),
    ("org/name@v1.0", HubLora("org/name@v1.0", "")),
    ("org/name@refs/pr/3", HubLora("org/name@refs/pr/3", "")),
    ("org/name/a b/x.safetensors", HubLora("org/name", "a b/x.safetensors")),
    (
      "org/name@v1/x.safetensors",
      HubLora("org/name@v1", "x.safetensors"),
    ),
    (
      "org/name@refs/pr/3/y/x.safetensors",
      HubLora("org/name@refs/pr/3", "y/x.safetensors"),
    ),
    ("folder/x.safetensors", None),
    ("x.safetensors", None),
    ("/org/name/x.safetensors", None),
    ("./org/name", None),
    ("../name", None),
    ("org/../x/y.safetensors", None),
    ("~/loras/x.safetensors", None),
    ("org/name/x.bin", None),
    ("org/name@", None),
  ],
)
def test_names(text, there):
  assert read_name(text) == there


def test_a_folder_that_is_here_is_not_looked_up(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "org" / "name").mkdir(parents=True)
  assert read_name("org/name/none.safetensors") is None
  assert read_lora("org/name:0.5") == (pathlib.Path("org/name"), 0.5)


def test_the_lora_alone_is_fetched(hub, tmp_path):
  file, scale = read_lora(f"{REPO}:0.5")
  assert file.name == "pytorch_lora_weights.safetensors" and scale == 0.5
  assert file.is_relative_to(tmp_path / "hub")
  assert hub.fetched == ["pytorch_lora_weights.safetensors"]
  assert read_lora(f"{REPO}@v1.0") == read_lora(f"{REPO}@{COMMIT}:1")
  assert read_lora(f"{REPO}@v1.0:-1") == (file, -1.0)
  assert len(hub.fetched) == 1, "it is in the cache"
  assert refusal(f"{REPO}@v2.0").startswith(f"'{REPO}' has no revision 'v2.0'")


def test_what_was_fetched_is_found_without_a_network(hub, monkeypatch):
  there = read_lora(REPO)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert read_lora(REPO) == there
  name = "pytorch_lora_weights.safetensors"
  assert read_lora(f"{REPO}/{name}") == there
  assert "cannot be fetched from the hub" in refusal("org/other")


def test_one_of_several_is_named(hub, published):
  (published / "pytorch_lora_weights.safetensors").unlink()
  lora(published / "rex.safetensors")
  lora(published / "more" / "big-tom.safetensors")
  assert read_lora(REPO)[0].name == "rex.safetensors", "the one at the top"
  lora(published / "cat.safetensors")
  assert refusal(REPO) == (
    f"'{REPO}' has 2 .safetensors files, cat.safetensors, rex.safetensors: say "
    f"which, such as --lora {REPO}/cat.safetensors."
  )
  file, scale = read_lora(f"{REPO}@main/more/big-tom.safetensors:0.25")
  assert file.name == "big-tom.safetensors" and scale == 0.25
  assert hub.fetched == ["rex.safetensors", "more/big-tom.safetensors"]
  assert refusal(f"{REPO}/dog.safetensors") == (
    f"'{REPO}' has no dog.safetensors on the hub: give one of its files, or "
    "the name of the repository alone."
  )


def test_pefts_config_comes_with_its_weights(hub, published):
  name = "adapter_model.safetensors"
  (published / "pytorch_lora_weights.safetensors").rename(published / name)
  (published / "adapter_config.json").write_text(json.dumps({"r": 2}))
  file, _ = read_lora(REPO)
  assert file.name == name
  assert (file.parent / "adapter_config.json").is_file()
  assert sorted(hub.fetched) == ["adapter_config.json", name]


def test_what_is_no_lora_is_not_fetched(hub, published):
  (published / "pytorch_lora_weights.safetensors").unlink()
  (published / "pytorch_lora_weights.bin").write_text("a pickle")
  assert refusal(REPO).startswith(f"'{REPO}' has no .safetensors on the hub: p")
  (published / "model_index.json").write_text("{}")
  assert refusal(REPO) == (
    f"'{REPO}' is a whole model and no LoRA: give it as --model."
  )
  assert not hub.fetched
  assert refusal("org/none") == (
    "The hub has no public repository 'org/none', and there is no such folder "
    "here: check the name, or log in if it is private."
  )
  lora(published / "x.safetensors")
  hub.gated = True
  assert "is open only to those who" in refusal(f"{REPO}/x.safetensors")


def test_a_picture_is_drawn_with_it(hub, published, tmp_path, capsys):
  model = tiny.write_latent_backbone(tmp_path / "model")
  config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
  shutil.rmtree(published)
  lora(published / "adapter_model.safetensors")
  (published / "adapter_config.json").write_text(json.dumps(config))
  argv = ["generate", "--model", model, "--prompt", "a dog", "--steps", 2]
  files = []
  for extra in ((), ("--lora", REPO), ("--lora", f"{REPO}:0")):
    files.append(tmp_path / f"{len(files)}.png")
    assert start(*argv, "--out", files[-1], *extra) == 0
  plain, drawn, nothing = (file.read_bytes() for file in files)
  assert plain == nothing != drawn
  line = error_of(capsys, *argv, "--out", files[0], "--lora", "org/none:2")
  assert line.startswith("Error: The hub has no public repository 'org/none'")
