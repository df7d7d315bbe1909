# SPDX-License-Identifier: Apache-2.0
"""The records that pass between stages, through files and never by import.

A stage reads the records of the stage before it and writes its own; what is not
in one of these records does not cross (SuTI, arXiv 2304.00186, section 3). How
a record becomes bytes is `suti.io.records`; this file knows no format and needs
the standard library and numpy alone.

Shape legend: `H` `W` height and width of a picture, which may differ from one
picture of a record to the next.
"""

import dataclasses
import hashlib
import re
import reprlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# Raised by one whenever a field changes: readers refuse files of another
# version instead of guessing.
SCHEMA_VERSION = 2

# What an unseen prompt may ask of a subject (SuTI, section 3.2).
SKILLS = ("recontextualization", "attribute", "style", "accessory")


def content_key(*parts: str | int | bytes | np.ndarray) -> str:
  """Names a record after what is in it: 12 hex digits.

  Args:
    *parts: texts, whole numbers, bytes or arrays; their order matters.

  Returns:
    The same name for the same content, in every process and on every machine.
  """
  digest = hashlib.blake2s(digest_size=6)
  for part in parts:
    if isinstance(part, np.ndarray):
      head, body = f"{part.dtype}{part.shape}", part.tobytes()
    elif isinstance(part, bytes):
      head, body = "bytes", part
    else:
      head, body = type(part).__name__, str(part).encode()
    # The length keeps ("ab", "c") apart from ("a", "bc").
    digest.update(f"{head}:{len(body)}:".encode())
    digest.update(body)
  return digest.hexdigest()


def seed_of(*parts: str | int) -> int:
  """The seed of a picture to draw, from what the picture is.

  Where the sampler's key is not made of the config's seed, parts begin with it.

  Args:
    *parts: what tells it from others, in order.
  """
  return zlib.crc32("/".join(map(str, parts)).encode())


# What `content_key` makes, and the fields of records that hold such a name.
_KEY = re.compile(r"[0-9a-f]{12}")
_KEYS = ("key", "cluster", "candidate")


def check_keys(fields: Mapping[str, Any]) -> None:
  """Refuses a record of a file whose key is none: files are named after keys.

  Everything that reads records of a file calls it, so that nothing after it
  need ask whether a key leads out of the folder that it is written to.

  Args:
    fields: of one record, by name.

  Raises:
    ValueError: a field that should hold a key holds something else.
  """
  for field in _KEYS:
    value = fields.get(field, "0" * 12)
    if not (isinstance(value, str) and _KEY.fullmatch(value)):
      raise ValueError(
        f"its {field} is {reprlib.repr(value)} and not 12 hex digits"
      )


def _assert_image(image_u8: np.ndarray) -> None:
  """Fails unless the array is a picture as every stage passes them on."""
  assert isinstance(image_u8, np.ndarray), type(image_u8)
  assert image_u8.dtype == np.uint8, image_u8.dtype
  assert image_u8.ndim == 3 and image_u8.shape[2] == 3, image_u8.shape


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
  """A few pictures of one subject, found under one address of the web.

  Attributes:
    key: short content hash.
    subject: class noun, "dog".
    caption: refined short text of the subject, "a brown dog".
    images: pictures, each uint8 RGB (H, W, 3).
    captions: one text for each picture.
    live: whether the subject is a living thing (decides its prompts).
    source: the page's address, or the folder it was read from.
    truth: one "world:SPLIT:SEED" for each picture where it is known, else None;
      for evaluation alone, no stage may look at it to decide anything.
    originals: height and width of each picture in px as it was found, before
      its middle was cut out and scaled; None if it is whole.
  """

  key: str
  subject: str
  caption: str
  images: tuple[np.ndarray, ...]
  captions: tuple[str, ...]
  live: bool
  source: str
  truth: tuple[str, ...] | None = None
  originals: tuple[tuple[int, int], ...] | None = None

  def __post_init__(self) -> None:
    """Checks pictures and what is said of each."""
    for image_u8 in self.images:
      _assert_image(image_u8)
    for each in (self.captions, self.truth, self.originals):
      assert each is None or len(each) == len(self.images), self.key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A text that no picture of the cluster shows.

  Attributes:
    cluster: key of the cluster.
    prompt: the whole text, "a dog wearing a red hat".
    skill: one of `SKILLS`.
  """

  cluster: str
  prompt: str
  skill: str

  def __post_init__(self) -> None:
    """Checks the skill."""
    assert self.skill in SKILLS, self.skill


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expert:
  """What is known of one expert after its fine-tuning.

  Attributes:
    cluster: key of the cluster it was tuned on.
    teacher: name of the teacher, a file of `experts/teachers`.
    steps: steps it was tuned for.
    loss: mean loss of its last steps.
    status: "ok" or "quarantined".
    cause: why it was quarantined, "" if it was not.
  """

  cluster: str
  teacher: str
  steps: int
  loss: float
  status: str = "ok"
  cause: str = ""

  def __post_init__(self) -> None:
    """Checks the status."""
    assert self.status in ("ok", "quarantined"), self.status


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
  """A picture that an expert or an apprentice drew for a prompt.

  Attributes:
    key: short content hash.
    cluster: key of the cluster whose subject it should show.
    prompt: the text it should meet.
    skill: one of `SKILLS`.
    image: uint8 RGB (H, W, 3).
    seed: what its noise was drawn from.
    guidance: weight of classifier-free guidance it was sampled with.
  """

  key: str
  cluster: str
  prompt: str
  skill: str
  image: np.ndarray
  seed: int
  guidance: float

  def __post_init__(self) -> None:
    """Checks picture and skill."""
    _assert_image(self.image)
    assert self.skill in SKILLS, self.skill


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """What the filter measured of a candidate, whether it kept it or not.

  Attributes:
    candidate: key of the candidate.
    cluster: key of its cluster.
    prompt: its text.
    delta_clip: clip_t - best_demonstration (SuTI, eq. 7), in [-2, 2].
    clip_t: cosine of picture and prompt.
    best_demonstration: largest cosine of a demonstration and the prompt.
    identity: mean cosine to the demonstrations by the identity encoder.
    kept: whether it passed.
  """

  candidate: str
  cluster: str
  prompt: str
  delta_clip: float
  clip_t: float
  best_demonstration: float
  identity: float
  kept: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Example:
  """One example the apprentice learns from.

  Attributes:
    key: key of the candidate it was made from.
    cluster: key of the cluster.
    prompt: text of the target.
    image: the target, uint8 RGB (H, W, 3).
    demonstrations: 0 to 10 pictures of the subject, each uint8 RGB (H, W, 3).
    captions: one text for each demonstration.
    delta_clip: score of the target, so that a stricter filter needs no rerun.
  """

  key: str
  cluster: str
  prompt: str
  image: np.ndarray
  demonstrations: tuple[np.ndarray, ...]
  captions: tuple[str, ...]
  delta_clip: float

  def __post_init__(self) -> None:
    """Checks pictures and their texts."""
    for image_u8 in (self.image, *self.demonstrations):
      _assert_image(image_u8)
    assert len(self.captions) == len(self.demonstrations), self.key
