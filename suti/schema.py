# SPDX-License-Identifier: Apache-2.0
"""The records that stages exchange, through files and never by import.

A stage reads the records of the stage before it and writes its own; these
records are the only interface between stages (SuTI, arXiv 2304.00186, section
3). They are serialised by `suti.io.records`; this file needs only the standard
library and numpy.

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

# Incremented whenever a field changes: readers refuse files of another version.
SCHEMA_VERSION = 2

# The skills of unseen prompts: the four that SuTI (section 3.2) asks its
# language model for, and those that its figures show beside them.
SKILLS = (
  "recontextualization",
  "attribute",
  "style",
  "accessory",
  "view",
  "expression",
  "composition",
)


def content_key(*parts: str | int | bytes | np.ndarray) -> str:
  """A content hash as the key of a record: 12 hex digits.

  Args:
    *parts: texts, whole numbers, bytes or arrays; their order matters.

  Returns:
    The same key for the same content, in every process and on every machine.
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
  """The seed of an image to sample, a hash of what identifies it.

  If the sampler's key does not depend on the config's seed, parts begin with
  that seed.

  Args:
    *parts: what distinguishes it from others, in order.
  """
  return zlib.crc32("/".join(map(str, parts)).encode())


# The form of a `content_key`, and the fields of records that hold one.
_KEY = re.compile(r"[0-9a-f]{12}")
_KEYS = ("key", "cluster", "candidate")


def check_keys(fields: Mapping[str, Any]) -> None:
  """Refuses a record with a malformed key, as files are named after keys.

  All readers of record files call it, so that no later code needs to check
  whether a key as a file name would leave its folder.

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
  """Fails unless the array is a picture: uint8 RGB."""
  assert isinstance(image_u8, np.ndarray), type(image_u8)
  assert image_u8.dtype == np.uint8, image_u8.dtype
  assert image_u8.ndim == 3 and image_u8.shape[2] == 3, image_u8.shape


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
  """A few pictures of one subject, found under one URL or in one folder.

  Attributes:
    key: short content hash.
    subject: class noun, "dog".
    caption: short text of the subject, "a brown dog".
    images: pictures, each uint8 RGB (H, W, 3).
    captions: one text for each picture.
    live: whether the subject is a living thing (decides its prompts).
    source: the page's URL, or the folder it was read from.
    truth: one "world:SPLIT:SEED" for each picture if known, else None; for
      evaluation only, no stage may use it.
    originals: original height and width of each picture in px, before it was
      center-cropped and scaled; None if it is whole.
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
    """Checks the pictures, and that there is a caption for each."""
    for image_u8 in self.images:
      _assert_image(image_u8)
    for each in (self.captions, self.truth, self.originals):
      assert each is None or len(each) == len(self.images), self.key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """An unseen prompt: no picture of the cluster shows it.

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
  """The outcome of one expert's fine-tuning.

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
  """An image that an expert or an apprentice generated for a prompt.

  Attributes:
    key: short content hash.
    cluster: key of the cluster whose subject it should show.
    prompt: the text it was sampled with.
    skill: one of `SKILLS`.
    image: uint8 RGB (H, W, 3).
    seed: of its noise.
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
  """The filter's scores of a candidate, kept or not.

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
  """One training example of the apprentice.

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
