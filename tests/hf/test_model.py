# SPDX-License-Identifier: Apache-2.0
"""Configs of strangers: a model is declared, or its mistake is one line."""

import itertools
import json

import pytest

from suti.diffusion.scheduler_config import from_config
from suti.hf.model import open_model
from suti.runtime.stage import guard
from tests import tiny

# What stands in no config, and what stands in another's.
STRANGE = (
  None,
  True,
  -1,
  0,
  3,
  0.5,
  float("nan"),
  10**9,
  10**30,
  "x",
  [],
  [None],
  [-1],
  ["x"],
  [[1]],
  {},
)
T5 = {
  "architectures": ["T5EncoderModel"],
  "vocab_size": 32,
  "d_model": 8,
  "d_kv": 4,
  "d_ff": 16,
  "num_layers": 1,
  "num_heads": 2,
  "relative_attention_num_buckets": 4,
  "relative_attention_max_distance": 8,
  "layer_norm_epsilon": 1e-6,
  "feed_forward_proj": "gated-gelu",
}
DINOV2 = tiny.VISION | {
  "model_type": "dinov2",
  "mlp_ratio": 4,
  "qkv_bias": True,
  "use_swiglu_ffn": False,
  "use_mask_token": True,
}
IF = tiny.UNET | {
  "block_out_channels": [32, 32],
  "cross_attention_dim": 32,  # in 32 groups, whatever the config says
  "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
  "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
  "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
  "attention_head_dim": 8,
  "encoder_hid_dim": 12,
  "encoder_hid_dim_type": "text_proj",
  "addition_embed_type": "text",
  "addition_embed_type_num_heads": 4,
  "class_embed_type": None,
  "resnet_time_scale_shift": "scale_shift",
  "resnet_out_scale_factor": 1.4,
  "mid_block_scale_factor": 1.4,
  "time_embedding_act_fn": "gelu",
  "cross_attention_norm": "group_norm",
  "only_cross_attention": True,
}
SDXL = tiny.UNET | {
  "addition_embed_type": "text_time",
  "addition_time_embed_dim": 4,
  "projection_class_embeddings_input_dim": 32,
  "transformer_layers_per_block": [1, 2],
}
MODELS = {
  "unet": tiny.UNET,
  "if": IF,
  "sdxl": SDXL,
  "vae": tiny.VAE,
  "text": tiny.TEXT,
  "clip": tiny.CLIP,
  "vit": tiny.IDENTITY,
  "dinov2": DINOV2,
  "t5": T5,
}
SCHEDULER = {
  "num_train_timesteps": 100,
  "beta_start": 1e-3,
  "beta_end": 0.02,
  "beta_schedule": "scaled_linear",
  "prediction_type": "epsilon",
  "trained_betas": None,
  "timestep_spacing": "leading",
  "steps_offset": 1,
  "clip_sample": True,
  "clip_sample_range": 1.0,
  "thresholding": True,
  "dynamic_thresholding_ratio": 0.9,
  "sample_max_value": 1.5,
  "use_karras_sigmas": True,
  "final_sigmas_type": "zero",
  "sigma_min": None,
  "sigma_max": None,
  "solver_order": 2,
  "solver_type": "midpoint",
  "algorithm_type": "dpmsolver++",
  "lower_order_final": True,
  "euler_at_final": False,
  "lambda_min_clipped": -5.1,
  "variance_type": "fixed_small",
  "set_alpha_to_one": False,
  "skip_prk_steps": True,
  "predict_x0": True,
  "disable_corrector": [],
  "rescale_betas_zero_snr": False,
}
CLASSES = (
  "DDIMScheduler",
  "DDPMScheduler",
  "DPMSolverMultistepScheduler",
  "EulerDiscreteScheduler",
  "EulerAncestralDiscreteScheduler",
  "PNDMScheduler",
  "UniPCMultistepScheduler",
)


def variations(config):
  """(path of keys, a strange value, the config with it)."""
  for key, value in config.items():
    for strange in STRANGE:
      yield (key,), strange, config | {key: strange}
    if isinstance(value, dict):
      for path, strange, inner in variations(value):
        yield (key, *path), strange, config | {key: inner}


def check(capsys, start, path, strange) -> None:
  """Fails if what happens is neither success nor one line that names it."""
  code = guard(start)
  lines = capsys.readouterr().err.splitlines()
  assert code in (0, 2), (path, strange)
  if code:
    assert len(lines) == 1 and len(lines[0]) < 600, (path, strange)
    assert lines[0].startswith("Error: "), (path, strange)


@pytest.mark.parametrize("name", MODELS)
def test_any_value_in_a_models_config(capsys, tmp_path, name):
  file = tmp_path / "config.json"
  file.write_text(json.dumps(MODELS[name]))
  open_model(tmp_path, weights=False)
  for path, strange, config in variations(MODELS[name]):
    file.write_text(json.dumps(config))
    check(capsys, lambda: open_model(tmp_path, weights=False), path, strange)


@pytest.mark.parametrize("name", CLASSES)
def test_any_value_in_a_schedulers_config(capsys, name):
  config = {"_class_name": name, **SCHEDULER}
  if name in ("PNDMScheduler", "EulerDiscreteScheduler") or "Anc" in name:
    config["thresholding"] = False
  from_config(config, num_steps=4)
  for path, strange, other in variations(config):
    check(capsys, lambda c=other: from_config(c, num_steps=4), path, strange)


def test_strange_numbers_of_steps(capsys):
  config = {"_class_name": "DDIMScheduler", **SCHEDULER}
  for steps, name in itertools.product((0, -1, 101, 10**9), CLASSES):
    other = config | {"_class_name": name, "thresholding": False}
    check(
      capsys, lambda c=other, n=steps: from_config(c, num_steps=n), name, steps
    )
