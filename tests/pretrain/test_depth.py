# SPDX-License-Identifier: Apache-2.0
"""Training of the net that sees depths."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.pretrain import depth as depth_config
from experts import teacher
from experts.teachers.syncd import TEACHER
from suti.nn.param import functional
from suti.pipeline.backbone import load_backbone
from suti.pretrain import depth, pictures
from suti.runtime.log import read_log
from tests import tiny
from tests.experts import inputs

SIDE = tiny.SIZE_PX


def render_shots(shots, *, size_px):
  """Pictures that cost nothing: a square at a distance of its shot's own."""
  rng = np.random.default_rng(shots[0].seed)
  mask = np.zeros((len(shots), size_px, size_px), bool)
  mask[:, 4:12, 4:12] = True
  far = rng.uniform(2, 4, (len(shots), 1, 1)).astype(np.float32)
  image = rng.integers(0, 256, (*mask.shape, 3), np.uint8)
  return {"image": image, "mask": mask, "depth": np.where(mask, far, 9)}


def test_it_trains_what_the_teacher_reads(tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, "render_shots", render_shots)
  base = tiny.write_backbone(tmp_path / "base", unet=tiny.SMALLEST_UNET)
  config = depth_config.get_config("tiny")
  config.base = str(base)
  with jax.numpy_dtype_promotion("standard"):  # optax relies on it
    done = depth.run(config, tmp_path)
  losses = [row["loss"] for row in read_log(tmp_path / "depth")]
  assert len(losses) == config.num_steps and np.isfinite(losses).all()
  backbone = load_backbone(base)
  loop = inputs.make_config({}, teacher="syncd", depth_net=done["model"])
  _, _, frozen = teacher.declare(TEACHER, backbone, loop)
  more = frozen["conv_in.weight"][..., backbone.latent_shape[-1] :, :]
  assert np.abs(more).max() > 0


def test_before_training_it_is_the_base(tmp_path):
  base = tiny.write_backbone(tmp_path, unet=tiny.SMALLEST_UNET)
  backbone = load_backbone(base)
  channels = backbone.latent_shape[-1]
  unet_config = tiny.SMALLEST_UNET | {"in_channels": 2 * channels}
  _, wide = functional(depth.declare_unet(unet_config))
  _, plain = functional(backbone.unet)
  rng = np.random.default_rng(0)
  x, seen = rng.normal(size=(2, 2, *backbone.latent_shape)).astype("float32")
  asked = jnp.array([3, 900]), backbone.encode_text(["a dog", ""])["text_BLD"]
  params = depth.widened(backbone.params, channels)
  found = wide(params, jnp.concatenate([x, seen], -1), *asked)
  np.testing.assert_allclose(
    found, plain(backbone.params, x, *asked), atol=1e-5
  )
