# SPDX-License-Identifier: Apache-2.0
"""Every key of a config that its publisher's code reads is known here.

Read here, or passed over for a reason that is written down; so that a key which
changes what a model returns cannot be passed over by being forgotten.
"""

import inspect
import re

import pytest

from suti.diffusion.plans import settings
from suti.models import clip, dino, dinov2, t5, unet_config, vae

pytestmark = [
  pytest.mark.parity,
  # Not our code: what torch and its friends warn about when imported.
  pytest.mark.filterwarnings("ignore"),
]

# What transformers reads and does not change what an encoder returns.
_HOW = {"_attn_implementation"}  # by which kernel
_START = {"initializer_factor", "initializer_range", "layerscale_value"}
_TRAINING = {
  "attention_dropout",
  "attention_probs_dropout_prob",
  "classifier_dropout",
  "drop_path_rate",
  "dropout_rate",
  "hidden_dropout_prob",
  "problem_type",
}
# Of the classes with a head, of a ViT's pooler, of a backbone for detection.
_HEADS = {
  "apply_layernorm",
  "encoder_stride",
  "num_labels",
  "pooler_act",
  "pooler_output_size",
  "reshape_hidden_states",
}
# Of T5's decoder. `hidden_size` is d_model by another name.
_DECODER = {
  "decoder_start_token_id",
  "eos_token_id",
  "hidden_size",
  "is_decoder",
  "is_encoder_decoder",
  "num_decoder_layers",
  "pad_token_id",
  "scale_decoder_outputs",
  "tie_word_embeddings",
  "use_cache",
}
_PASSED_OVER = _HOW | _START | _TRAINING | _HEADS
ENCODERS = {
  "clip": ({**clip._DEFAULTS, **clip._TEXT_DEFAULTS, **clip._VISION_DEFAULTS}),
  "vit": dino._DEFAULTS,
  "dinov2": dinov2._DEFAULTS,
  "dinov2_with_registers": dinov2._REGISTERS_DEFAULTS,
  "t5": {**t5._DEFAULTS, **t5._STATED, **dict.fromkeys(_DECODER)},
}


@pytest.mark.parametrize("family", ENCODERS)
def test_keys_that_an_encoder_reads(family):
  pytest.importorskip("torch", reason="torch is not installed: [parity]")
  from transformers import models

  package = getattr(models, family)
  source = inspect.getsource(getattr(package, f"modeling_{family}"))
  read = set(re.findall(r"\bconfig\.(\w+)", source))
  assert len(read) > 10
  assert read - _PASSED_OVER - set(ENCODERS[family]) == set()
  # And nothing is passed over that we do read.
  assert not _PASSED_OVER & set(ENCODERS[family])


def arguments(name):
  diffusers = pytest.importorskip("diffusers", reason="no diffusers: [parity]")
  found = inspect.signature(getattr(diffusers, name).__init__).parameters
  return {k: v.default for k, v in found.items() if k != "self"}


def test_keys_of_a_unet():
  theirs = arguments("UNet2DConditionModel")
  ours = unet_config._DEFAULTS
  known = {*ours, *unet_config._CHOICES, *unet_config._PASSED_OVER}
  assert set(theirs) == known
  assert {k: theirs[k] for k in ours} == ours


def test_keys_of_an_autoencoder():
  theirs = arguments("AutoencoderKL")
  assert set(theirs) == set(vae._KNOWN)
  assert {k: theirs[k] for k in vae._DEFAULTS} == vae._DEFAULTS


@pytest.mark.parametrize("name", settings.CLASSES)
def test_keys_of_a_scheduler(name):
  theirs = arguments(name)
  ours = settings._DEFAULTS[name]
  unsupported = settings._UNSUPPORTED.get(name, {})
  passed_over = {"flow_shift", "time_shift_type"}
  if name == "DPMSolverMultistepScheduler":
    # How many channels to cut off: ours sees what a net says.
    passed_over |= {"variance_type"}
  assert set(theirs) == {*ours, *unsupported} | (passed_over & set(theirs))
  for key, value in ours.items():
    assert theirs[key] == (list(value) if value == () else value), key
  for key, values in unsupported.items():
    assert theirs[key] in values, key


def test_keys_of_other_schedulers_are_known():
  """So that any file of a scheduler that works alike can be asked for ours."""
  diffusers = pytest.importorskip("diffusers", reason="no diffusers: [parity]")
  known = settings._PASSED_OVER.union(
    *settings._DEFAULTS.values(), *settings._UNSUPPORTED.values()
  )
  names = [e.name for e in diffusers.schedulers.KarrasDiffusionSchedulers]
  # Its process is another one.
  names.remove("EDMEulerScheduler")
  for name in [*names, "LCMScheduler", "TCDScheduler", "SASolverScheduler"]:
    assert set(arguments(name)) - {"args", "kwargs"} <= known, name
