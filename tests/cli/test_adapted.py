# SPDX-License-Identifier: Apache-2.0
"""`suti generate --adapter`: a published model and IP-Adapter, and mistakes.

That its images are the publishers' is tests/pipeline/test_ip_adapter.py's.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from suti.hf.model import open_model
from suti.hf.weights import save
from suti.images import save_png
from suti.models.ip_adapter import declare_ip_adapter
from suti.models.ip_adapter_shapes import shapes_for
from suti.nn.param import functional, init
from tests import tiny
from tests.commands import error_of, start

ENCODER = tiny.VISION | {
  "architectures": ["CLIPVisionModelWithProjection"],
  "model_type": "clip_vision_model",
  "projection_dim": 10,
}


@pytest.fixture(scope="module")
def model(tiny_backbone):
  return tiny_backbone


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
  """A file of the first kind, and image_encoder/ beside it."""
  folder = tmp_path_factory.mktemp("models")
  unet = open_model(model / "unet", weights=False)
  spec, _ = functional(
    declare_ip_adapter(
      shapes_for(
        unet.module,
        kind="base",
        d_image=10,
        num_tokens=2,
        width=0,
        depth=0,
        num_heads=0,
      )
    )
  )
  params = init(spec, jax.random.key(0))
  params = {name: 3 * x for name, x in params.items()}
  save(params, spec, folder / "ip-adapter.safetensors")
  tiny.write_encoder(folder / "image_encoder", ENCODER)
  return folder / "ip-adapter.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("dog")
  rng = np.random.default_rng(0)
  for i in range(2):
    save_png(folder / f"{i}.png", rng.integers(0, 256, (64, 70, 3), np.uint8))
  return folder


def read(path):
  with Image.open(path) as image:
    return np.asarray(image).astype(int)


def argv(model, adapter, subject, out, *more):
  return [
    *("generate", "--model", model, "--adapter", adapter),
    *("--subject", subject, "--prompt", "a dog", "--out", out),
    *("--steps", 2, *more),
  ]


def test_pictures_change_the_image_by_their_weight(
  model, adapter, pictures, tmp_path, capsys
):
  out = tmp_path / "x.png"

  def draw(subject, *more):
    assert start(*argv(model, adapter, subject, out, *more)) == 0
    return read(tmp_path / "x-0.png")

  first = draw(pictures / "0.png")
  assert capsys.readouterr().out == f"Wrote {out} and {tmp_path / 'x-0.png'}.\n"
  other = draw(pictures / "1.png")
  assert np.abs(first - other).max() > 1
  capsys.readouterr()
  both = draw(pictures)
  assert (
    "The 2 pictures are shown side by side, the tokens of all in one row, as "
    "its publisher's code does; an IP-Adapter was trained on one at a time."
  ) in " ".join(capsys.readouterr().err.split())
  assert np.abs(both - first).max() > 0
  # Without weight it is the model alone.
  none = draw(pictures / "0.png", "--subject-scale", 0)
  alone = tmp_path / "alone.png"
  assert (
    start(
      *("generate", "--model", model, "--prompt", "a dog", "--out", alone),
      *("--steps", 2),
    )
    == 0
  )
  assert np.abs(read(alone) - none).max() <= 1
  assert np.abs(none - first).max() > 1


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (
      ("--subject-scale", "-1"),
      "Error: --subject-scale=-1.0: expected 0, without the pictures, or more; "
      "1 is usual.",
    ),
    (
      ("--caption", "a dog"),
      "Error: --caption does not go with --adapter: leave out one of them.",
    ),
    (
      ("--image-encoder", "nowhere"),
      "Error: --image-encoder=nowhere: there is no folder nowhere; give the "
      "CLIP image encoder that ip-adapter.safetensors was trained with, which "
      "is published beside it.",
    ),
    (
      ("--adapter", "nowhere.safetensors"),
      "Error: --adapter=nowhere.safetensors: there is no such file; give the "
      ".safetensors file of an IP-Adapter, such as "
      "models/ip-adapter_sd15.safetensors of h94/IP-Adapter on the Hugging "
      "Face hub.",
    ),
    (
      ("--model", "world_apprentice"),
      "is an apprentice, which has no use for an IP-Adapter: give a "
      "text-to-image model, or leave out --adapter.",
    ),
  ],
)
def test_a_mistake_is_one_line(
  more, message, model, adapter, pictures, tmp_path, capsys
):
  line = argv(model, adapter, pictures, tmp_path / "x.png", *more)
  assert message in error_of(capsys, *line)


@pytest.mark.parametrize(
  ("left", "message"),
  [
    (
      "--subject",
      "Error: --adapter shows the model pictures: give them as --subject, or "
      "leave out --adapter.",
    ),
    (
      "--model",
      "Error: --adapter goes with a text-to-image model: give the one that it "
      "was trained for as --model, such as Stable Diffusion 1.5.",
    ),
    (
      "--adapter",
      "Error: --image-encoder is that of an IP-Adapter: give --adapter, or "
      "leave it out.",
    ),
  ],
)
def test_what_is_missing_is_named(
  left, message, model, adapter, pictures, tmp_path, capsys
):
  line = argv(model, adapter, pictures, tmp_path / "x.png")
  at = line.index(left)
  del line[at : at + 2]
  if left == "--adapter":
    line += ["--image-encoder", "x"]
  assert error_of(capsys, *line) == message


def test_an_adapter_of_another_model_is_one_line(
  model, adapter, pictures, tmp_path, capsys
):
  one, out = pictures / "0.png", tmp_path / "x.png"
  line = argv(model, model / "unet", one, out)
  assert "there is no such file" in error_of(capsys, *line)
  weights = next((model / "unet").glob("*.safetensors"))
  encoder = adapter.parent / "image_encoder"
  more = ("--image-encoder", encoder)
  line = argv(model, weights, one, out, *more)
  assert "This is no IP-Adapter that can be read" in error_of(capsys, *line)
