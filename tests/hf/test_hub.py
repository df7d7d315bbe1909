# SPDX-License-Identifier: Apache-2.0
"""Models by their names on the hub, through its real client and a hub here."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants

from suti.hf.hub import fetch, find_or_fetch
from suti.io.files import write_json
from suti.pipeline.text_to_image import open_cascade_stage
from tests import tiny
from tests.hf import hub_server
from tests.hf.hub_server import COMMIT, REPO

PARTS = {
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"],
}
UNET = "unet/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """A repository as they are: with all that nobody here reads."""
  folder = tiny.write_latent_backbone(tmp_path_factory.mktemp("repository"))
  aside = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
  }
  index = {"_class_name": "StableDiffusionPipeline", **PARTS, **aside}
  write_json(folder / "model_index.json", index)
  for name in (
    f"{UNET}.fp16.safetensors",
    f"{UNET}.non_ema.safetensors",
    f"{UNET}.bin",
    "unet/flax_model.msgpack",
    "unet/openvino_model.xml",
    "text_encoder/pytorch_model.bin",
    "safety_checker/model.safetensors",
    "safety_checker/config.json",
    "feature_extractor/preprocessor_config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.ckpt",
    "sample.png",
    "README.md",
    "LICENSE.md",
  ):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"{name}, which nobody reads here")
  return folder


def files(folder):
  paths = (p for p in folder.rglob("*") if p.is_file())
  return {path.relative_to(folder).as_posix() for path in paths}


def refusal(name):
  with pytest.raises(ValueError) as error:
    find_or_fetch(name)
  text = str(error.value)
  assert "\n" not in text
  return text


WANTED = {
  "LICENSE.md",
  "README.md",
  "model_index.json",
  "scheduler/scheduler_config.json",
  "text_encoder/config.json",
  "text_encoder/model.safetensors",
  "tokenizer/tokenizer.json",
  "tokenizer/tokenizer_config.json",
  "unet/config.json",
  f"{UNET}.safetensors",
  "vae/config.json",
  "vae/diffusion_pytorch_model.safetensors",
}


def test_only_what_is_read_is_fetched(hub):
  folder = find_or_fetch(REPO)
  assert files(folder) == WANTED
  assert sorted(hub.fetched) == sorted(WANTED), "each of them once"
  assert open_cascade_stage(folder).size_px == tiny.SIZE_PX


def test_parts_that_nobody_needs_are_not_fetched(hub):
  folder = find_or_fetch(REPO, without=("text_encoder", "tokenizer"))
  assert files(folder) == {n for n in WANTED if not n.startswith("t")}
  assert open_cascade_stage(folder).size_px == tiny.SIZE_PX


def test_what_is_in_the_cache_is_not_fetched_again(hub, monkeypatch):
  folder = fetch(REPO)
  hub.fetched.clear()
  assert fetch(REPO) == fetch(f"{REPO}@{COMMIT}") == folder
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert fetch(REPO) == folder
  assert not hub.fetched


def test_a_revision_is_given_behind_an_at(hub):
  assert fetch(f"{REPO}@v1.0").name == COMMIT
  assert refusal(f"{REPO}@v2.0") == (
    f"'{REPO}' has no revision 'v2.0' on the hub: give one of its branches, "
    "tags or commits."
  )


def test_a_variant_is_fetched_where_there_is_no_other(hub, published):
  plain, aside = published / f"{UNET}.safetensors", published / "plain"
  half = published / f"{UNET}.fp16.safetensors"
  content = half.read_bytes()
  shutil.move(plain, aside)
  shutil.copy(aside, half)
  try:
    fetched = {f for f in files(fetch(REPO)) if f.startswith("unet/")}
  finally:
    shutil.move(aside, plain)
    half.write_bytes(content)
  assert f"{UNET}.fp16.safetensors" in fetched
  assert not {f for f in fetched if f.endswith(("bin", "msgpack", "xml"))}


def single(tmp_path, *names):
  """Another repository: one model at the top."""
  folder = tiny.write_clip(tmp_path / "single")
  for name in names:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(name)
  return folder


def test_a_lone_model_is_at_the_top(tmp_path, hub, monkeypatch):
  others = (
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "onnx/config.json",
    "onnx/model.safetensors",
  )
  with hub_server.serve(single(tmp_path, *others)) as running:
    monkeypatch.setattr(
      constants,
      "HUGGINGFACE_CO_URL_TEMPLATE",
      running.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    assert files(fetch(REPO)) == {
      "config.json",
      "model.safetensors",
      "preprocessor_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
    }


def test_what_no_command_can_read_is_not_fetched(hub, published):
  file = published / "model_index.json"
  index = file.read_bytes()
  parts = {"transformer": ["diffusers", "FluxTransformer2DModel"]}
  write_json(file, {"_class_name": "FluxPipeline", **parts})
  try:
    text = refusal(REPO)
  finally:
    file.write_bytes(index)
  assert text.startswith(f"'{REPO}' is a FluxPipeline of transformer: give a m")
  assert hub.fetched == ["model_index.json"]


def test_pickles_are_not_fetched(hub, published):
  config = published / "unet" / "config.json"
  aside = published / "aside"
  aside.mkdir()
  weights = [*published.glob("unet/*.safetensors")]
  for file in weights:
    shutil.move(file, aside)
  try:
    text = refusal(REPO)
  finally:
    for file in weights:
      shutil.move(aside / file.name, file)
    aside.rmdir()
  assert config.is_file()
  assert text.startswith(
    f"'{REPO}' has no .safetensors of its unet/ on the hub"
  )
  assert not [f for f in hub.fetched if f.endswith((".bin", ".ckpt"))]


def test_who_may_not_fetch_is_told_why(hub):
  hub.gated = True
  assert refusal(REPO) == (
    f"'{REPO}' is open only to those who accept its terms: do so at "
    f"https://huggingface.co/{REPO}, then log in with `hf auth login` or set "
    "HF_TOKEN."
  )
  for name in ("org/none", "org/a--b"):
    assert refusal(name) == (
      f"The hub has no public repository '{name}', and there is no such folder "
      "here: check the name, or log in if it is private."
    )


def test_without_a_network_and_without_a_copy(hub, monkeypatch):
  text = f"'{REPO}' is no folder here, and cannot be fetched from the hub ("
  monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody
  assert refusal(REPO).startswith(text)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert refusal(REPO).startswith(text)


def test_what_other_programs_have_fetched_is_found(
  published, tmp_path, monkeypatch
):
  """The cache's layout: links from a commit's files to what they hold."""
  repo = tmp_path / "hub" / "models--org--tiny"
  (repo / "refs").mkdir(parents=True)
  (repo / "refs" / "main").write_text(COMMIT)
  snapshot = repo / "snapshots" / COMMIT
  (repo / "blobs").mkdir()
  for number, name in enumerate(sorted(WANTED)):
    shutil.copy(published / name, repo / "blobs" / f"{number:040x}")
    link = snapshot / name
    link.parent.mkdir(parents=True, exist_ok=True)
    up = "/".join([".."] * (name.count("/") + 2))
    link.symlink_to(f"{up}/blobs/{number:040x}")
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert fetch(REPO) == snapshot
  assert open_cascade_stage(snapshot).size_px == tiny.SIZE_PX


def test_a_path_is_never_looked_up_on_the_hub(hub, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tiny.write_clip(tmp_path / "org" / "tiny")
  assert find_or_fetch("org/tiny").resolve() == tmp_path / "org" / "tiny"
  (tmp_path / "org" / "notes.txt").write_text("hello")
  assert "is not a .safetensors file" in refusal("org/notes.txt")
  for name in ("./org/none", "/org/none", "../org/none", "none"):
    assert refusal(name).startswith(f"No model '{name}': it is neither a fold")
  assert not hub.fetched


def test_commands_take_the_name_in_the_place_of_a_folder(hub, tmp_path):
  """In a process of its own, as the client reads the environment once."""
  out = tmp_path / "out"
  environment = os.environ | {
    "HF_ENDPOINT": hub.url,
    "HF_HUB_OFFLINE": "0",
    "HF_HOME": str(tmp_path / "home"),
  }
  result = subprocess.run(
    [sys.executable, "-m", "suti.cli", "convert", f"{REPO}@v1.0", str(out)],
    env=environment,
    cwd=pathlib.Path(__file__).parent.parent.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert "UNet2DConditionModel" in result.stdout
  assert sorted(hub.fetched) == sorted(WANTED)
  assert files(out) == WANTED
