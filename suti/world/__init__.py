# SPDX-License-Identifier: Apache-2.0
"""SubjectWorld: a small 3-D world with the truth known.

The embedded default instead of the web and of real subjects: millions of
subjects of DreamBench's 15 classes, its 50 prompts as scenes, rendered by a ray
marcher. It does not look like photographs and is not meant to.
"""

from suti.world.captions import caption, describe
from suti.world.render import render_shots
from suti.world.templates import (
  CLASSES,
  LIVE,
  LIVE_TEMPLATES,
  OBJECT_TEMPLATES,
  PARTS,
  SPLITS,
  TEMPLATES,
  Shot,
  Template,
  class_of,
  compose,
  composition,
  split_of,
  subject_seeds,
  template_of,
  templates_of,
)

__all__ = [
  "CLASSES",
  "LIVE",
  "LIVE_TEMPLATES",
  "OBJECT_TEMPLATES",
  "PARTS",
  "SPLITS",
  "TEMPLATES",
  "Shot",
  "Template",
  "caption",
  "class_of",
  "compose",
  "composition",
  "describe",
  "render_shots",
  "split_of",
  "subject_seeds",
  "template_of",
  "templates_of",
]
