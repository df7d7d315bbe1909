# SPDX-License-Identifier: Apache-2.0
"""An expert's loss and its gradient are those of the published recipes.

diffusers' DreamBooth scripts, plain and LoRA, for SDXL and IF, on tiny random
models that both sides read from the same files: a text as their pipeline
encodes it, SDXL's sizes of a picture that was cut, a latent or pixels, the mean
squared error, of IF's prediction alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experts import teacher
from experts.farm.waves import wave_data
from suti.diffusion import objective
from suti.hf.lora_export import save_lora
from suti.nn.param import functional
from suti.pipeline.backbone import load_backbone
from tests.experts import inputs
from tests.goldens.ours import published_layout
from tests.pipeline import tiny_pipelines

ORIGINALS = ((40, 24), (16, 61), (300, 300))
ROWS = [0, 2, 1, 0]  # of the cluster's pictures: the batch
KEY = jax.random.key(11)


@pytest.fixture(scope="module", params=["sdxl", "if1"])
def folder(request, tmp_path_factory):
  place = tmp_path_factory.mktemp(request.param)
  return tiny_pipelines.write(request.param, place)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """One step of ours: what went in, and what came out."""

  backbone: object
  cluster: object
  params: dict
  loss: float
  gradients: dict  # in the published layout


def step_of(folder, name) -> Step:
  """The loss of a batch of one expert, and its gradient."""
  backbone = load_backbone(folder)
  config = inputs.make_config(
    {}, teacher=name, weighting="uniform", log_snr_mean=None, rank=2
  )
  cluster = make_cluster(backbone.size_px)
  data = wave_data([cluster], backbone, num_pictures=4, seed=0)
  batch = {
    "x_BHWC": data["x_KHWC"][0][ROWS],
    "conditioning": {
      name: x_EK[0][ROWS] for name, x_EK in data["conditioning"].items()
    },
  }
  found = teacher.find(name)
  apply, trainable, frozen = teacher.declare(found, backbone, config)
  spec, _ = functional(found.declare(backbone, config.finetune))
  # LoRA's second half starts at zero, and the first learns nothing then.
  rng = np.random.default_rng(0)
  params = {
    n: rng.normal(0, 0.1, x.shape).astype("float32") if "lora_" in n else x
    for n, x in trainable.items()
  }

  @jax.jit
  def loss_of(params):
    return found.loss(
      apply, backbone, frozen | params, batch, KEY, config.finetune
    )

  loss, gradients = jax.value_and_grad(loss_of)(params)
  return Step(
    backbone=backbone,
    cluster=cluster,
    params=params,
    loss=float(loss),
    gradients={n: published_layout(spec[n], x) for n, x in gradients.items()},
  )


def make_cluster(size_px):
  """Pictures that were cut out of larger ones."""
  (cluster,) = inputs.make_clusters(1)
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (3, size_px, size_px, 3), np.uint8)
  return dataclasses.replace(
    cluster,
    images=tuple(images),
    captions=inputs.CAPTIONS[:3],
    originals=ORIGINALS,
  )


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["dreambooth", "lora"])
def test_loss_and_gradient_are_the_published_recipes(folder, name, tmp_path):
  for needed in ("torch", "diffusers", "accelerate", "peft"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: [parity]")
  ours = step_of(folder, name)
  loss, gradients = published_step(folder, name, ours, tmp_path)
  np.testing.assert_allclose(ours.loss, loss, rtol=1e-5)
  learnt = {n: x for n, x in ours.gradients.items() if np.abs(x).max() > 0}
  assert learnt.keys() == {
    n for n, x in gradients.items() if np.abs(x).max() > 0
  }
  for parameter, gradient in learnt.items():
    np.testing.assert_allclose(
      gradient, gradients[parameter], atol=1e-4, err_msg=parameter
    )
    # Small ones too: all of a tensor, measured by its largest.
    scale = np.abs(gradient).max()
    error = np.abs(gradient - gradients[parameter]).max()
    assert error < 1e-2 * scale + 1e-6, (parameter, error, scale)


def published_step(folder, name, ours: Step, tmp_path):
  """The same step as diffusers' scripts write it down."""
  import diffusers
  import torch

  pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
  unet, is_if = pipeline.unet, "IF" in type(pipeline).__name__
  if name == "lora":
    save_lora({"unet": ours.params}, tmp_path / "expert")
    pipeline.load_lora_weights(tmp_path / "expert")
  unet.requires_grad_(name != "lora")
  for parameter, x in unet.named_parameters():
    x.requires_grad_(name != "lora" or ".lora_" in parameter)

  size_px = ours.backbone.size_px
  images = np.stack([ours.cluster.images[row] for row in ROWS])
  pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
  texts = [ours.cluster.captions[row] for row in ROWS]
  with torch.no_grad():
    if is_if:
      states, _ = pipeline.encode_prompt(
        texts, do_classifier_free_guidance=False, clean_caption=False
      )
      x0, conditioning = pixels, None
    else:
      states, _, pooled, _ = pipeline.encode_prompt(
        texts, do_classifier_free_guidance=False
      )
      x0 = pipeline.vae.encode(pixels).latent_dist.mode()
      x0 = x0 * pipeline.vae.config.scaling_factor
      ids = [time_ids(ORIGINALS[row], size_px) for row in ROWS]
      conditioning = {"text_embeds": pooled, "time_ids": torch.tensor(ids)}

  t_key, noise_key = jax.random.split(KEY)
  t_B = objective.draw_steps(
    ours.backbone.schedule, t_key, batch_size=len(ROWS), stratified=True
  )
  shape = (len(ROWS), *ours.backbone.latent_shape)
  noise = jax.random.normal(noise_key, shape, jnp.float32)
  noise = torch.from_numpy(np.array(noise)).permute(0, 3, 1, 2)
  t = torch.from_numpy(np.array(t_B)).long()
  scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
  said = unet(
    scheduler.add_noise(x0, noise, t), t, states, added_cond_kwargs=conditioning
  ).sample
  if is_if:
    said, _ = said.chunk(2, dim=1)
  loss = torch.nn.functional.mse_loss(said.float(), noise.float())
  loss.backward()
  gradients = {
    parameter.replace(".default_0", "").replace(".base_layer", ""): x
    for parameter, x in unet.named_parameters()
    if x.requires_grad
  }
  return loss.item(), {
    n: np.zeros(x.shape) if x.grad is None else x.grad.numpy()
    for n, x in gradients.items()
  }


def time_ids(original, size_px):
  """Original size, top and left of the crop, size to make."""
  side = min(original)
  scaled = [int(size_px * x / side) for x in original]
  corner = [max(0, round((x - size_px) / 2)) for x in scaled]
  return [*original, *corner, size_px, size_px]
