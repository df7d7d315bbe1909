# SPDX-License-Identifier: Apache-2.0
"""A mask and a frozen encoder, of what three images at once have taught.

Differs from tests/extensions/trio_config.py in its method.

  python -m tests.extensions.found run \
    --config tests/extensions/masked_config.py --workdir runs/masked
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tests.extensions import trio_config


def method_section(encoder: str, *, width: int) -> ConfigDict:
  """`config.method`.

  Args:
    encoder: the folder of an identity encoder, or its shipped name.
    width: of its features.
  """
  return ConfigDict(
    {
      "sites": r"transformer_blocks\.0$",
      "encoder": encoder,
      "encoder_width": width,
      "trainable": placeholder(str),
    }
  )


def get_config(arg: str = ""):
  """The config; `arg` is "" or the folder of an encoder, ",", its width."""
  config = trio_config.get_config().unlock()
  config.train.method = "masked"
  folder, _, width = (arg or "world_identity,192").partition(",")
  config.method = method_section(folder, width=int(width))
  config.train.init = config.backbone
  return config.lock()
