# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter from published files: image prompts."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from suti.diffusion import samplers
from suti.diffusion.guidance import classifier_free, guided
from suti.diffusion.scheduler_config import from_config
from suti.hf.image_processor import make_pixel_reader
from suti.hf.model import open_model
from suti.hf.weights import load
from suti.io.files import read_json, write_json
from suti.models.unet import declare_unet
from suti.nn.param import functional
from suti.pipeline.ip_adapter import open_ip_adapter
from tests import tiny
from tests.goldens import drawing, loras
from tests.goldens.families import ip_adapter as family
from tests.goldens.ours import drawn
from tests.hf.test_image_processor import picture

UNET = declare_unet(loras.UNET)
# Two examples of two pictures each.
PICTURES = [
  [picture(20, 31), picture(16, 16)],
  [picture(25, 17), picture(40, 40)],
]
SCALE = 0.6
ENCODER = tiny.VISION | {
  "architectures": ["CLIPVisionModelWithProjection"],
  "model_type": "clip_vision_model",
  "hidden_size": 12,
  "num_hidden_layers": 2,
  "projection_dim": 10,
}
# One of each kind; all but the first read states of the encoder.
ADAPTERS = {
  name: config | {"image": 10 if config["kind"] == "base" else 12}
  for name, (config, _) in family.CASES.items()
}
SCHEDULER = {
  "_class_name": "DDIMScheduler",
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "beta_end": 0.012,
  "clip_sample": False,
  "set_alpha_to_one": False,
  "steps_offset": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """image_encoder/ and a file of each kind, as on the hub."""
  folder = tmp_path_factory.mktemp("IP-Adapter") / "models"
  for name, config in ADAPTERS.items():
    tensors = drawing.weights(family.shapes(config))
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / f"{name}.safetensors")
  encoder = tiny.write_encoder(folder / "image_encoder", ENCODER)
  # The published folder has none.
  (encoder / "preprocessor_config.json").unlink()
  return folder


def opened(folder, name, **options):
  return open_ip_adapter(
    **{
      "file": folder / f"{name}.safetensors",
      "image_encoder": folder / "image_encoder",
      "unet": UNET,
    }
    | options
  )


@pytest.mark.parametrize("name", ADAPTERS)
def test_pictures_become_keys_and_values(name, folder):
  _, encode_pictures = opened(folder, name)
  conditioning, null = encode_pictures(PICTURES, scale=SCALE)
  encoder = open_model(folder / "image_encoder")
  read = make_pixel_reader({"size": 16, "crop_size": 16})
  states = name != "ip_adapter"
  spec, apply = functional(family.declare(ADAPTERS[name]))
  params = load(spec, folder / f"{name}.safetensors")

  @jax.jit
  def by_hand(x_BKHWC, blank):
    method = "penultimate_states" if states else "embed_image"
    rows = [
      encoder.apply(encoder.params, x_KHWC, method=method) for x_KHWC in x_BKHWC
    ]
    return apply(params, jnp.stack(rows) * (1.0 if states else 1 - blank))

  x_BKHWC = jnp.stack([read(row) for row in PICTURES])
  for prompt, blank in ((conditioning, 0.0), (null, 1.0)):
    np.testing.assert_array_equal(prompt.scale, np.float32([SCALE, SCALE]))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      prompt.keys_values,
      by_hand(x_BKHWC * (1 - blank), blank),
    )


def test_the_encoders_own_way_to_show_pictures_is_taken(folder, tmp_path):
  encoder = tmp_path / "image_encoder"
  shutil.copytree(folder / "image_encoder", encoder)
  name = "ip_adapter"
  before, _ = opened(folder, name)[1](PICTURES)
  for mean, change in ((None, False), ([0.9] * 3, True)):
    write_json(
      encoder / "preprocessor_config.json",
      {"size": 16, "crop_size": 16} | ({"image_mean": mean} if mean else {}),
    )
    after, _ = opened(folder, name, image_encoder=encoder)[1](PICTURES)
    difference = np.abs(before.keys_values[0][0] - after.keys_values[0][0])
    assert (difference.max() > 1e-3) == change


def test_each_row_has_its_own_weight(folder):
  unet, encode_pictures = opened(folder, "ip_adapter")
  spec, apply = functional(unet)
  assert spec == functional(UNET)[0]
  params = drawn(spec)
  conditioning, null = encode_pictures(PICTURES, scale=1.0)
  values = [jnp.asarray(loras.inputs()[name]) for name in ("x", "t", "text")]
  run = jax.jit(lambda prompt: apply(params, *values, context=prompt))
  one, other = run(conditioning), run(conditioning._replace(scale=jnp.zeros(2)))
  mixed = run(conditioning._replace(scale=jnp.array([1.0, 0.0])))
  np.testing.assert_allclose(mixed[0], one[0], atol=1e-5)
  np.testing.assert_allclose(mixed[1], other[1], atol=1e-5)
  assert np.abs(one - other).max() > 1e-2
  assert np.abs(one - run(null)).max() > 1e-2


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("unet", r"ip_adapter\.safetensors: This IP-Adapter is for a U-Net of 7 "),
    ("width", r"reads pictures 10 wide, and .*encoder sees them 6 wide: give"),
    (
      "kind",
      r"is a CLIPVisionModel: expected CLIPVisionModelWithProjection\.$",
    ),
    (
      "file",
      r"other\.safetensors: This is no IP-Adapter that can be read \('a",
    ),
    ("pickle", r"ip_adapter\.bin is not a .* Pickles .* are refused: fetch"),
  ],
)
def test_what_does_not_fit_is_one_line(change, message, folder, tmp_path):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  encoder, options = tmp_path / "image_encoder", {}
  match change:
    case "unet":
      blocks = ["DownBlock2D", "CrossAttnDownBlock2D"]
      options["unet"] = declare_unet(loras.UNET | {"down_block_types": blocks})
    case "width":
      shutil.rmtree(encoder)
      tiny.write_encoder(encoder, ENCODER | {"projection_dim": 6})
    case "kind":
      config = read_json(encoder / "config.json")
      config["architectures"] = ["CLIPVisionModel"]
      write_json(encoder / "config.json", config)
    case "file":
      options["file"] = tmp_path / "other.safetensors"
      tensors = {"a.weight": np.ones((2, 2), np.float32)}
      safetensors.numpy.save_file(tensors, options["file"])
    case "pickle":
      options["file"] = tmp_path / "ip_adapter.bin"
      options["file"].write_bytes(b"PK")
  with pytest.raises(ValueError, match=message) as caught:
    opened(tmp_path, "ip_adapter", **options)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("pictures", "numbers"),
  [([PICTURES[0], PICTURES[1][:1]], r"\[1, 2\]"), ([[], []], r"\[0\]")],
)
def test_rows_of_other_lengths_are_one_line(pictures, numbers, folder):
  _, encode_pictures = opened(folder, "ip_adapter")
  with pytest.raises(ValueError, match=f"rows of {numbers} pictures: give ea"):
    encode_pictures(pictures)


# --- Against diffusers -------------------------------------------------------


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTERS)
def test_images_equal_those_of_the_publishers_pipeline(
  name, folder, record_property
):
  for needed in ("torch", "diffusers", "transformers", "accelerate"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: [parity]")
  values = loras.inputs()
  text, null = values["text"], values["text"][::-1].copy()
  # Their pipeline has the same pictures for all rows.
  expected = their_latents(name, folder, values["x"], text, null)
  found = our_latents(name, folder, values["x"], text, null)
  bare = our_latents(name, folder, values["x"], text, null, scale=0.0)
  assert np.abs(found - bare).max() > 0.03
  error = np.abs(found - expected).max()
  record_property("largest_error", float(error))
  assert error < 1e-3


def our_latents(name, folder, x, text, null, *, scale=SCALE):
  unet, encode_pictures = opened(folder, name)
  spec, apply = functional(unet)
  params = drawn(spec)
  shown, not_shown = encode_pictures([PICTURES[0]] * len(x), scale=scale)
  denoise = guided(
    lambda x, t, c: apply(params, x, t, c[0], context=c[1]),
    (jnp.asarray(text), shown),
    (jnp.asarray(null), not_shown),
    combine=lambda *said: classifier_free(*said, 4.0),
  )
  plan = from_config(SCHEDULER, num_steps=4)
  draw = jax.jit(lambda x, key: samplers.sample(denoise, plan, x, key))
  return np.asarray(draw(x, jax.random.key(0)))


def their_latents(name, folder, x, text, null):
  import diffusers
  import torch
  import transformers
  from PIL import Image

  pipe = loras.make_pipeline()
  pipe.register_modules(
    scheduler=diffusers.DDIMScheduler.from_config(SCHEDULER),
    # By itself it would take the processor on torchvision, which rounds at
    # other places.
    feature_extractor=transformers.CLIPImageProcessorPil(size=16, crop_size=16),
  )
  pipe.load_ip_adapter(
    str(folder.parent),
    subfolder=folder.name,
    weight_name=f"{name}.safetensors",
    local_files_only=True,
  )
  pipe.set_ip_adapter_scale(SCALE)
  pipe.set_progress_bar_config(disable=True)
  out = pipe(
    prompt_embeds=torch.from_numpy(text),
    negative_prompt_embeds=torch.from_numpy(null),
    ip_adapter_image=[[Image.fromarray(image) for image in PICTURES[0]]],
    latents=torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
    guidance_scale=4.0,
    num_inference_steps=4,
    output_type="latent",
  )
  return out.images.permute(0, 2, 3, 1).numpy()
