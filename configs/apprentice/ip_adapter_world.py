# SPDX-License-Identifier: Apache-2.0
"""IP-Adapter (arXiv 2308.06721) in SubjectWorld: SynCD's baseline.

Differs from configs/apprentice/world.py in its method: the base is frozen, and
learns to see pictures through the world's CLIP. As published, each picture is
the prompt of itself; the adapter is of the first kind, of 4 tokens.

Command to run:
  python -m apprentice.train \
      --config configs/apprentice/ip_adapter_world.py --workdir runs/ip_adapter
Hardware: 2 CPU cores. Before it: suti.pretrain.examples, see docs/results.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs.apprentice import world


def get_config(arg: str = "") -> ConfigDict:
  """All sections; "tiny" makes the other stages as small as in CI."""
  config = world.get_config(arg).unlock()
  config.train.update(
    method="ip_adapter",
    learning_rate=1e-3,  # published, of 22M parameters in SD 1.5: 1e-4
    # As published, and excluding each other.
    joint_dropout=0.05,
    text_dropout=0.05,
    demonstration_dropout=0.05,
    exclusive_dropout=True,
  )
  config.method = ConfigDict(
    {
      # A CLIP: a shipped name, or a folder with its config and weights.
      "encoder": "world_clip",
      # What an adapter reads, and makes tokens of: base, CLIP's embedding by a
      # projection | plus, its states by a resampler | full, each state by an
      # MLP, as ip-adapter-full-face.
      "kind": "base",
      "num_tokens": 4,  # of a picture; published: base 4, plus 16
      # Of plus alone. Published: 768 x 4 with 12 heads for SD 1.5, 1280 x 4
      # with 20 for SDXL.
      "width": 128,
      "depth": 2,
      "num_heads": 2,  # of 64 each
      # The empty picture that a dropped one becomes, where states are read:
      # mean, 0 after CLIP's normalisation (IP-Adapter) | grey (SynCD).
      "null": "mean",
      # A published .safetensors, or an apprentice's folder with an adapter, to
      # start from; "" starts from the text's keys and values, as published.
      "adapter": "",
      # What is the prompt in training: target, a picture of itself, as
      # published | demonstrations, the subject in other pictures.
      "shows": "target",
      "trainable": placeholder(str),
    }
  )
  # As published: one weight for both, here that of the base.
  config.apprentice_sample.update(
    systems=("apprentice", "before", "base", "copy", "wrong_subject"),
    guidance_mode="joint",
    guidance=3.0,
    text_guidance=None,
    subject_scale=1.0,
  )
  return config.lock()
