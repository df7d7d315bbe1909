# SPDX-License-Identifier: Apache-2.0
"""Three images at once, without tuning.

Differs from configs/quickstart.py:tiny in its teacher and its filter.

  python -m tests.extensions.found run \
    --config tests/extensions/trio_config.py --workdir runs/trio
"""

from configs import quickstart


def get_config(arg: str = ""):
  """The config; `arg` has no meaning."""
  assert not arg
  config = quickstart.get_config("tiny").unlock()
  config.finetune.teacher = "trio"
  config.prompts.num_per_cluster = 3
  config.sample.update(together=3, batch_size=6)
  config.benchmark.num_prompts = 3
  config.label.source = "world"
  config.filter.rule = "delta_clip > -1, pair_identity > -1"
  config.train.method = "suti"
  return config.lock()
