# SPDX-License-Identifier: Apache-2.0
"""Runs SynCD's published code on the cases and stores what it returned.

  git clone https://github.com/nupurkmr9/syncd FOLDER
  python -m tests.goldens.make_syncd FOLDER

with the extra `parity` (torch, diffusers, accelerate, peft), einops and
torchvision. Run with commit 757965c5bfe4434dff949e8d420b1edbf9f0ec22 on a CPU;
the file's metadata says so too. What is run is theirs:

  method      `SDXLCustomPipeline`, made and called: 3 references, random masks,
              two steps of guidance; what its U-Net is given and returns in both
              passes is recorded, and what eq. 4 makes of it
  cells       `DummyDataset.getdata`, of pictures with masks: what their masks
              become on the latent
  guidance    `normalized_guidance_image`
  masks       `otsu`; `AttentionStore`, over two layers and two steps; the
              loop of `gen_rigid.run_dataset_gen`, up to the call of its model
  warp        `warpcorrespondence`

What is put in from outside, as it is not here or is not for a CPU:

  - `load_ip_adapter` downloads a file: random weights go through the same
    loader of diffusers;
  - text encoders, CLIP and the autoencoder are none: their pipeline is given
    embeddings and latents, as it allows;
  - `gen_rigid` gets, for FLUX, a model that stops when it is called and keeps
    the mask that it was handed, one batch in the place of its data set, and one
    process;
  - lightning and pytorch_lightning are modules that hold next to nothing, and
    torchvision's compiled operators, which resizing a mask does not need, are
    left out where they are not for the torch that is there.

Not run: FLUX itself, whose text and image are one sequence, and `getcorresp`,
which needs pytorch3d's cameras.
"""

import contextlib
import importlib
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest.mock
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from suti.nn.nets import of_net
from suti.pipeline.image_prompt import ADAPTER
from tests import tiny
from tests.goldens import syncd_cases as cases
from tests.goldens.theirs import nchw, nhwc, tensors

_TOKENS = 512  # of a text, in their code


def method() -> dict[str, np.ndarray]:
  """Both passes of each branch and step, and the guided prediction."""
  module = importlib.import_module("pipelines.sdxl_pipeline.pipeline")
  with tempfile.TemporaryDirectory() as place:
    pipeline, null = _pipeline(module, pathlib.Path(place))
  calls, guided = [], []

  def keep(_, args, kw, out):
    calls.append((kw["cross_attention_kwargs"]["mode"], *args[:2], out[0]))

  def guide(*args):
    guided.append(normalised(*args))
    return guided[-1]

  normalised = module.normalized_guidance_image
  pipeline.unet.register_forward_hook(keep, with_kwargs=True)
  with unittest.mock.patch.object(module, "normalized_guidance_image", guide):
    pipeline(**_call(null))
  found = {}
  for step in range(cases.STEPS):
    (one, refs, t, _), (two, x, _, out) = calls[2 * step : 2 * step + 2]
    assert (one, two) == ("w", "r")
    # The three branches are given the same.
    refs, x = (each.unflatten(0, (3, -1)) for each in (refs, x))
    assert (refs == refs[:1]).all() and (x == x[:1]).all()
    found |= {
      f"method.{step}.t": t.numpy().astype(np.int32),
      f"method.{step}.references": nhwc(refs[0]),
      f"method.{step}.x": nhwc(x[0]),
      f"method.{step}.out": nhwc(out),
      f"method.{step}.guided": nhwc(guided[step][:1]),
    }
  assert len(calls) == 2 * len(guided) == 2 * cases.STEPS
  return found


def _pipeline(module, place: pathlib.Path) -> tuple[Any, torch.Tensor]:
  """Their pipeline with our weights, and what CLIP says of no picture."""
  import diffusers
  import peft

  backbone, spec, _ = cases.nets(
    place / "base", tiny.write_clip(place / "clip")
  )
  published = tensors(cases.published(spec))
  unet = diffusers.UNet2DConditionModel.from_pretrained(
    backbone.folder, subfolder="unet", low_cpu_mem_usage=False
  )
  adapter = of_net(published, ADAPTER)

  def load_ip_adapter(self, *_, **__):
    parts = {
      part: {
        name.removeprefix(f"{part}."): x
        for name, x in adapter.items()
        if name.startswith(f"{part}.")
      }
      for part in ("image_proj", "ip_adapter")
    }
    self.unet._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)

  pipeline_class = module.SDXLCustomPipeline
  nothing = (
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
  )
  with unittest.mock.patch.object(
    pipeline_class, "load_ip_adapter", load_ip_adapter
  ):
    pipeline = pipeline_class(
      **dict.fromkeys(nothing),
      unet=unet,
      scheduler=diffusers.EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        timestep_spacing="leading",
      ),
      add_watermarker=False,
      set_adapter=True,
    )
  layers = ("to_q", "to_k", "to_v", "to_out.0")
  unet.add_adapter(
    peft.LoraConfig(
      r=cases.RANK,
      lora_alpha=cases.RANK,
      target_modules=[f"attn1.{layer}" for layer in layers],
    )
  )
  updates = {
    name.replace(".weight", ".default.weight"): x
    for name, x in published.items()
    if ".lora_" in name
  }
  kept = unet.load_state_dict(updates, strict=False)
  assert updates and not kept.unexpected_keys, kept.unexpected_keys
  pipeline.set_progress_bar_config(disable=True)
  return pipeline, published["null:features"]


def _call(null_X: torch.Tensor) -> dict[str, Any]:
  """Arguments as their `sample.py` has them."""
  shown, hidden = (tensors(cases.texts(each)) for each in (False, True))
  features_KX = tensors({"": cases.features(tuple(null_X.shape))})[""]
  # The target sees the first reference as a whole.
  pictures_NX = torch.cat([features_KX[:1], features_KX])
  latents = nchw(tensors({"": cases.latents()})[""])
  masks_K1HW = tensors({"": cases.masks()})[""][:, None]
  is_target = torch.zeros(1 + cases.K, 1, cases.SIDE, cases.SIDE)
  is_target[0] = 1
  mask = torch.cat([is_target[:1], masks_K1HW])
  return {
    "prompt_embeds": shown["text_BLD"],
    "pooled_prompt_embeds": shown["pooled_BD"],
    "negative_prompt_embeds": hidden["text_BLD"],
    "negative_pooled_prompt_embeds": hidden["pooled_BD"],
    "latents": latents,
    "latents_ref": latents,
    "latents_mask": is_target,
    "ip_adapter_image_embeds": [
      pictures_NX,
      null_X.expand(1 + cases.K, *null_X.shape),
    ],
    "cross_attention_kwargs": {
      "shared_attn": True,
      "num": 1 + cases.K,
      "self_attn_mask": torch.cat([torch.zeros_like(mask), mask, mask]),
    },
    "ip_adapter_scale": cases.SCALE,
    "guidance_scale": cases.TEXT_SCALE,
    "image_guidance_scale": cases.SUBJECT_SCALE,
    "adaptive_image_guidance_scale": cases.SUBJECT_RAMP,
    "num_inference_steps": cases.STEPS,
    "height": 8 * cases.SIDE,
    "width": 8 * cases.SIDE,
    "generator": torch.Generator().manual_seed(0),
    "output_type": "latent",
  }


def cells() -> dict[str, np.ndarray]:
  """Masks of pictures on the grid of their latents."""
  from PIL import Image

  module = importlib.import_module("data.data")
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    (folder / "masks").mkdir()
    for i, mask in enumerate(cases.silhouettes()):
      Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(
        folder / f"{i}.png"
      )
      # PIL goes by the content: a real JPEG would have noise, which counts.
      Image.fromarray(mask).save(folder / "masks" / f"{i}.jpg", format="PNG")
    data = module.DummyDataset(
      image_paths=[str(folder / f"{i}.png") for i in range(cases.K)],
      prompt="",
      num_images_per_prompt=1,
      cat="",
      img_size=8 * cases.SIDE,
      kernel_size=cases.DILATION,
    )
    masks_N1HW = data.getdata(0)["masks"]
  return {"cells.mask": masks_N1HW[1:, 0].numpy()}


def guidance() -> dict[str, np.ndarray]:
  """Eq. 4 alone."""
  module = importlib.import_module("pipelines.sdxl_pipeline.pipeline")
  given = {n: nchw(x) for n, x in tensors(cases.predictions()).items()}
  guided = module.normalized_guidance_image(
    given["nothing"],
    given["full"],
    given["subject"],
    cases.TEXT_SCALE,
    cases.SUBJECT_SCALE,
  )
  return {"guidance.guided": nhwc(guided)}


def deformable() -> dict[str, np.ndarray]:
  """Otsu's cuts; the maps of a noun, and who may attend to what, by step."""
  editor = importlib.import_module("src.editor")
  cut = editor.otsu(tensors({"": cases.maps()})[""])
  # A value that is the threshold stays as it is, which none is.
  assert ((cut == 0) | (cut == 1)).all()
  found = {"otsu.mask": cut.numpy().astype(bool)}
  store = editor.AttentionStore(
    cases.NOUNS, len(cases.LAYERS), 16 * cases.MAP_SIDE
  )
  for step in range(2):
    seen = []
    for layer, kind in enumerate(cases.LAYERS):
      x = tensors(cases.queries(layer, step, _TOKENS))
      # The last layer ends the step, so that what is kept is copied before.
      with unittest.mock.patch.object(store, "after_step", lambda: None):
        store(x["queries"], x["keys"], None, True, kind, cases.HEADS, scale=0.5)
      seen.append(store.step_store[kind][-1][..., : cases.LENGTH].clone())
    found[f"store.{step}.weights"] = torch.stack(seen).numpy()
    store.after_step()
    found[f"store.{step}.mask"] = (
      store.attention_maps[:, 0].numpy().astype(bool)
    )
    found[f"store.{step}.matrix"] = _matrix(store.attention_mask)
  return found


def _matrix(mask: torch.Tensor) -> np.ndarray:
  """Their mask of attention: which keys of others an image's positions see.

  Checked here: it is the same for all heads and positions of an image, which
  see all of their own text and picture; a text sees none of the others. That
  nobody sees another's text is because it is not among the keys.

  Returns: bool (T, keys).
  """
  mask = mask[:, 0] if mask.stride(1) == 0 else mask.swapaxes(0, 1)[0]
  allowed = mask == 1
  assert (allowed | (mask == -65504)).all()
  num = mask.shape[1]  # its own text and picture
  assert allowed[:, :, :num].all() and not allowed[:, :_TOKENS, num:].any()
  rows = allowed[:, _TOKENS:, num:]
  assert (rows == rows[:, :1]).all()
  return rows[:, 0].numpy()


class _CalledError(Exception):
  """Their model was called: what is wanted is known."""


def rigid() -> dict[str, np.ndarray]:
  """Who may attend to what, of rendered views."""
  module = importlib.import_module("gen_rigid")
  handed = []

  class Model:
    """In the place of FLUX."""

    def __init__(self):
      self.vae, self.transformer = unittest.mock.Mock(), unittest.mock.Mock()
      self.transformer.attn_processors = {}

    @classmethod
    def from_pretrained(cls, *_, **__):
      return cls()

    def to(self, _):
      return self

    def __call__(self, **kw):
      handed.append(kw["joint_attention_kwargs"]["attention_mask"])
      raise _CalledError

  blank = torch.zeros(cases.T, 3, 1, 1)
  batch = {
    "images": blank,
    "depths": blank,
    "masks": tensors({"": cases.views()})[""].float(),
    "prompts": ["a dog"] * cases.T,
  }
  put_in = {
    "FluxControlCustomPipeline": Model,
    "ObjaverseDataset": unittest.mock.Mock(),
    "DistributedSampler": unittest.mock.Mock(),
    "DataLoader": lambda *_, **__: [batch],
    "dist": unittest.mock.Mock(),
    "seed_everything": torch.manual_seed,
  }
  with (
    contextlib.suppress(_CalledError),
    unittest.mock.patch.multiple(module, **put_in),
  ):
    module.run_dataset_gen([], warping=False, device="cpu")
  (mask,) = handed
  return {"rigid.matrix": _matrix(mask)}


def warp() -> dict[str, np.ndarray]:
  """A set before the mask is eroded for good, and after."""
  module = importlib.import_module("src.flux_depth_syncd")
  places_TTRR2, seen_TTRR = cases.places()
  row, column = np.mgrid[: cases.GRID, : cases.GRID] + 0.5
  parts = []
  for i, j in ((0, 1), (0, 2), (1, 2)):
    seen = seen_TTRR[i, j]
    at = places_TTRR2[i, j][seen]
    # Row and column in the one, then in the other: 1 is left or top, -1 the
    # other end.
    pixels = np.stack([row[seen], column[seen], at[:, 1], at[:, 0]], -1)
    parts.append(1 - 2 * pixels / cases.GRID)
  counts = torch.tensor([len(part) for part in parts])
  correspondence = torch.from_numpy(np.concatenate(parts)).float()
  x_TPC = tensors({"": cases.to_warp()})[""].flatten(1, 2)
  found = {}
  for name, level in cases.LEVELS.items():
    moved = module.warpcorrespondence(
      correspondence, counts, x_TPC.clone(), 1, level, numref=cases.T
    )
    found[f"warp.{name}"] = moved.numpy().reshape(cases.to_warp().shape)
  return found


def _metadata(folder: pathlib.Path) -> dict[str, str]:
  commit = subprocess.run(
    ["git", "-C", str(folder), "rev-parse", "HEAD"],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  import diffusers

  return {
    "repository": "https://github.com/nupurkmr9/syncd",
    "commit": commit,
    "command": "python -m tests.goldens.make_syncd FOLDER",
    "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
  }


def _open_torchvision() -> None:
  """Imports it also where its compiled operators are not for this torch."""
  try:
    importlib.import_module("torchvision")
  except RuntimeError:
    for name in [name for name in sys.modules if "torchvision" in name]:
      del sys.modules[name]
    for name in ("nms", "qnms"):
      torch.library.define(
        f"torchvision::{name}",
        "(Tensor dets, Tensor scores, float m) -> Tensor",
      )
    importlib.import_module("torchvision")


def main(folder: pathlib.Path) -> None:
  """Writes the file; `folder` is a checkout of their repository."""
  sys.path[:0] = [str(folder / "method"), str(folder / "dataset")]
  _open_torchvision()
  for name, part in (
    ("lightning", "LightningDataModule"),
    ("pytorch_lightning", "seed_everything"),
  ):
    sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name], part, object)
  stored = {}
  with torch.no_grad():
    for part in (method, cells, guidance, deformable, rigid, warp):
      stored |= part()
  stored = {name: np.ascontiguousarray(x) for name, x in stored.items()}
  safetensors.numpy.save_file(stored, cases.FILE, metadata=_metadata(folder))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
