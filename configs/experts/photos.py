# SPDX-License-Identifier: Apache-2.0
"""Experts on your own photographs: a folder that holds a folder a subject.

  python -m experts.mine --config configs/experts/photos.py:my_photos \
    --workdir runs/photos      # then .prompts .finetune .sample .filter .pack

Hardware and time: a CPU with 2 cores, as configs/quickstart.py.

Differs from configs/quickstart.py in where the pictures come from. The shipped
base has seen SubjectWorld alone: it shows that the stages read photographs, and
its pictures will not be photographs. For those, give a base that knows them:
`--config.backbone=FOLDER --config.clip=FOLDER --config.identity=FOLDER`.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: path of the folder of subject folders.

  Returns: the config.
  """
  config = quickstart.get_config().unlock()
  config.mine.update(
    source="folder",
    path=arg,
    num_pages=1000,
    # A person put these pictures together: no page is refused for being mixed.
    similarity_low=-1.0,
    similarity_high=1.0,
  )
  config.train.validation_clusters = 0  # of a few subjects each counts
  # CLIP has not seen photographs either, and the filter is only as good as it.
  config.filter.rule = "delta_clip > -1"
  return config.lock()
