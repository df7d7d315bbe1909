# SPDX-License-Identifier: Apache-2.0
"""DreamBench's protocol, written down, and how other tools depart from it.

DreamBooth (arXiv 2208.12242), section 4.1, is silent about the prompt's token,
about averages where subjects have 4 to 6 photographs, and about preprocessing;
each tool fills that in differently, and their scores do not compare. Here one
reading is fixed as the default, and each known departure is a variant with a
name. Scores carry the protocol's version and the variants' warnings; what may
change a score changes `VERSION`. docs/evaluation.md says it in words.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from suti.config.names import suggest

NAME, VERSION = "dreambench", 1

# The metrics of a picture, and what they are called.
METRICS = {
  "identity": "DINO",
  "clip_i": "CLIP-I",
  "clip_t": "CLIP-T",
  "delta_clip": "delta-CLIP",
  "copying": "copying",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How pictures become a score.

  Attributes:
    references: "all" photographs of a subject, or the "single" one of
      `dreambench.SINGLE_REFERENCES`.
    average: "pairs" is the mean over all pairs of a generated and a real
      picture, "subjects" that of the means of subjects.
    identity: the encoder of the subject: "dino-vits16", "dino-vits8", "dinov2".
    masked: whether the background of pictures is cut away before it, by
      NAME.mask.png beside each picture.
    pixels: "crop" resizes the shorter side and cuts out the centre, "squash"
      resizes to a square, "own" does what the encoder's own file says.
    text_scale: of CLIP-T; where it is not 1, negative cosines count as 0.
    text_prefix: in front of each prompt.
  """

  references: str = "all"
  average: str = "pairs"
  identity: str = "dino-vits16"
  masked: bool = False
  pixels: str = "crop"
  text_scale: float = 1.0
  text_prefix: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """A departure from the protocol.

  Attributes:
    changes: fields of `Protocol`.
    warning: what it does to scores, and who measures like this.
  """

  changes: Mapping[str, Any]
  warning: str


VARIANTS: Mapping[str, Variant] = {
  "single-reference": Variant(
    changes={"references": "single"},
    warning="one photograph a subject is the reference, mostly the one that "
    "the model was given (Kosmos-G, OmniGen): copying it scores above real "
    "photographs",
  ),
  "subject-mean": Variant(
    changes={"average": "subjects"},
    warning="subjects weigh the same (UNO), not pairs: they have 4 to 6 "
    "photographs",
  ),
  "vits8": Variant(
    changes={"identity": "dino-vits8"},
    warning="DINO ViT-S/8 judges (DreamBench++), whose cosines differ from "
    "ViT-S/16's",
  ),
  "dinov2": Variant(
    changes={"identity": "dinov2"},
    warning="DINOv2 judges in the place of DINO (DreamBench++, SynCD)",
  ),
  "masked-dinov2": Variant(
    changes={"identity": "dinov2", "masked": True},
    warning="DINOv2 judges cut-out subjects (SynCD): scores depend on who drew "
    "the masks",
  ),
  "clipscore": Variant(
    changes={"text_scale": 2.5},
    warning="CLIP-T is 2.5 x max(cosine, 0) (CLIPScore, Custom Diffusion)",
  ),
  "photo-prefix": Variant(
    changes={"text_prefix": "A photo depicts "},
    warning="'A photo depicts' stands in front of each prompt (CLIPScore)",
  ),
  "squash": Variant(
    changes={"pixels": "squash"},
    warning="pictures are resized to a square without a crop (transformers' "
    "file of DINO)",
  ),
  "own-pixels": Variant(
    changes={"pixels": "own"},
    warning="pictures are prepared as the file beside each encoder says",
  ),
}


def choose(variants: Sequence[str]) -> Protocol:
  """The protocol with variants.

  Args:
    variants: names, in any order.

  Raises:
    ValueError: there is no such variant, or two of them disagree.
  """
  changes: dict[str, Any] = {}
  by: dict[str, str] = {}
  for name in variants:
    if name not in VARIANTS:
      raise ValueError(
        f"--variant={name}: expected {', '.join(VARIANTS)}."
        f"{suggest(name, VARIANTS)}"
      )
    for field, value in VARIANTS[name].changes.items():
      if changes.setdefault(field, value) != value:
        raise ValueError(
          f"--variant={name} and --variant={by[field]} both set {field}: give "
          "one of them."
        )
      by.setdefault(field, name)
  return Protocol(**changes)


def warnings_of(variants: Sequence[str]) -> list[str]:
  """A line on each variant: why its scores stand for themselves."""
  return [
    f"variant {name}: {VARIANTS[name].warning}. Not comparable with scores of "
    "the protocol."
    for name in variants
  ]


def titles_of(identity: str) -> dict[str, str]:
  """What the metrics are called.

  Args:
    identity: the name of the identity encoder, "DINO"; "identity" where it is
      none of the published ones.
  """
  return METRICS | {"identity": identity}


def record(protocol: Protocol, variants: Sequence[str]) -> dict[str, Any]:
  """What scores say about how they were measured."""
  return {
    "name": NAME,
    "version": VERSION,
    "variants": sorted(variants),
    **dataclasses.asdict(protocol),
  }
