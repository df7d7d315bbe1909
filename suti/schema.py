# SPDX-License-Identifier: Apache-2.0
"""The records that stages exchange, through files and never by import.

A stage reads the records of the stage before it and writes its own; these
records are the only interface between stages (SuTI, arXiv 2304.00186, section
3). They are serialised by `suti.io.records`; this file needs only the standard
library and numpy.

Shape legend: `H` `W` height and width of a picture, which may differ from one
picture of a record to the next. A mask is bool (H, W), a depth float16 (H, W),
0 where nothing is known; both are as large as their picture.
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
SCHEMA_VERSION = 4

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


def image_seed(seed: int, prompt: "Prompt", number: int) -> int:
  """The seed of an image's noise, whoever samples it.

  Expert, apprentice and base begin the same image from the same noise.

  Args:
    seed: of the config.
    prompt: of the image.
    number: which of the prompt's images, from 0.
  """
  return seed_of(seed, prompt.cluster, prompt.prompt, number)


# The form of a `content_key`, and the fields of records that hold one.
_KEY = re.compile(r"[0-9a-f]{12}")
_KEYS = ("key", "cluster", "candidate", "group")


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
    if field == "group" and value is None:
      continue
    if not (isinstance(value, str) and _KEY.fullmatch(value)):
      raise ValueError(
        f"its {field} is {reprlib.repr(value)} and not 12 hex digits"
      )


def _assert_image(image_u8: np.ndarray) -> None:
  """Fails unless the array is a picture: uint8 RGB."""
  assert isinstance(image_u8, np.ndarray), type(image_u8)
  assert image_u8.dtype == np.uint8, image_u8.dtype
  assert image_u8.ndim == 3 and image_u8.shape[2] == 3, image_u8.shape


def _assert_fits(
  plane_HW: np.ndarray | None, dtype: type, image_u8: np.ndarray
) -> None:
  """Fails unless a mask or a depth, if there is one, is that of the picture."""
  if plane_HW is not None:
    assert plane_HW.dtype == dtype, plane_HW.dtype
    assert plane_HW.shape == image_u8.shape[:2], plane_HW.shape


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
    group: key shared by images that saw each other while they were sampled;
      None if it was sampled alone.
    number: its place in the group, from 0.
    mask: where the subject is, as its teacher knows; None if it does not.
    view: number of the cluster's picture whose shape it follows, by that
      picture's label; None if it follows none.
  """

  key: str
  cluster: str
  prompt: str
  skill: str
  image: np.ndarray
  seed: int
  guidance: float
  group: str | None = None
  number: int = 0
  mask: np.ndarray | None = None
  view: int | None = None

  def __post_init__(self) -> None:
    """Checks picture, mask and skill."""
    _assert_image(self.image)
    _assert_fits(self.mask, np.bool_, self.image)
    assert self.skill in SKILLS, self.skill


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """The filter's scores of a candidate, kept or not.

  Attributes:
    candidate: key of the candidate.
    cluster: key of its cluster.
    prompt: its text.
    values: {name of a measure, a file of `suti/evaluation/measures`: value}.
    kept: whether it passed.
    group: as in `Candidate`.
  """

  candidate: str
  cluster: str
  prompt: str
  values: Mapping[str, float]
  kept: bool
  group: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Label:
  """What is where in one picture of a cluster, or in a candidate.

  Attributes:
    key: of the cluster or the candidate.
    number: of the cluster's picture, from 0; 0 for a candidate.
    names: of the entities that were found, such as "dog".
    boxes_xyxy: of each: left, top, right, bottom, as shares of width and
      height, in [0, 1].
    scores: confidence in each, in [0, 1].
    masks: of each, bool (H, W).
    depth: distance from the camera, float16 (H, W); None if it is not known.
    camera: numbers that describe it, by the source of the labels; None if it is
      not known.
  """

  key: str
  number: int
  names: tuple[str, ...] = ()
  boxes_xyxy: tuple[tuple[float, ...], ...] = ()
  scores: tuple[float, ...] = ()
  masks: tuple[np.ndarray, ...] = ()
  depth: np.ndarray | None = None
  camera: tuple[float, ...] | None = None

  def __post_init__(self) -> None:
    """Checks that each entity is described whole."""
    for each in (self.boxes_xyxy, self.scores, self.masks):
      assert len(each) == len(self.names), self.key
    for box in self.boxes_xyxy:
      assert len(box) == 4 and all(0 <= x <= 1 for x in box), box
    for mask_HW in self.masks:
      assert mask_HW.dtype == np.bool_, mask_HW.dtype
      assert mask_HW.ndim == 2, mask_HW.shape
    assert self.depth is None or self.depth.dtype == np.float16


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
    values: scores of the target by measure, so that a stricter filter needs no
      rerun.
    mask: where the subject is in the target; None if it is not known.
    depth, camera: of the target, as in `Label`; None if it is not known.
    demonstration_masks: where it is in each demonstration; empty if not known.
    names, boxes_xyxy, masks: the entities of the target, as in `Label`.
    group: as in `Candidate`.
    origin: what made the target: name of the teacher.
  """

  key: str
  cluster: str
  prompt: str
  image: np.ndarray
  demonstrations: tuple[np.ndarray, ...]
  captions: tuple[str, ...]
  values: Mapping[str, float]
  mask: np.ndarray | None = None
  depth: np.ndarray | None = None
  camera: tuple[float, ...] | None = None
  demonstration_masks: tuple[np.ndarray, ...] = ()
  names: tuple[str, ...] = ()
  boxes_xyxy: tuple[tuple[float, ...], ...] = ()
  masks: tuple[np.ndarray, ...] = ()
  group: str | None = None
  origin: str = ""

  def __post_init__(self) -> None:
    """Checks pictures, and all that belongs to them."""
    for image_u8 in (self.image, *self.demonstrations):
      _assert_image(image_u8)
    assert len(self.captions) == len(self.demonstrations), self.key
    _assert_fits(self.mask, np.bool_, self.image)
    _assert_fits(self.depth, np.float16, self.image)
    for mask_HW in self.masks:
      _assert_fits(mask_HW, np.bool_, self.image)
    assert len(self.names) == len(self.boxes_xyxy) == len(self.masks), self.key
    if self.demonstration_masks:
      for mask_HW, image_u8 in zip(
        self.demonstration_masks, self.demonstrations, strict=True
      ):
        _assert_fits(mask_HW, np.bool_, image_u8)
