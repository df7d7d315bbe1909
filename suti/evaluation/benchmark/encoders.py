# SPDX-License-Identifier: Apache-2.0
"""The encoders of a folder, opened as a protocol asks, and said by name.

  DIR/ANY_NAME/    config.json and weights of a CLIPModel, a DINO, a DINOv2

Which is which follows from config.json, never from a folder's name, so that an
encoder cannot be taken for another one. Each is recorded with a fingerprint of
its files and what is done to pixels before it: scores compare where all of
that is equal.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from suti.evaluation.protocol import Protocol
from suti.evaluation.scores import IDENTITY, image_encoder, in_rows
from suti.hf.find import PRETRAINED, find_model
from suti.hf.image_processor import (
  PixelReader,
  load_pixel_reader,
  make_pixel_reader,
)
from suti.hf.model import Model, kind_of, open_model, read_config
from suti.hf.tokenizer import load_tokenizer
from suti.io.files import fingerprint
from suti.io.paths import local, path_of
from suti.schema import content_key

# N pictures or texts, D embedding width.

_IMAGENET = {
  "image_mean": [0.485, 0.456, 0.406],
  "image_std": [0.229, 0.224, 0.225],
}
_OPENAI = {
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_BICUBIC = 3
# The encoder that a protocol's `identity` names -> patch and width of its file.
_PUBLISHED = {
  "dino-vits16": ("ViTModel", 16, 384),
  "dino-vits8": ("ViTModel", 8, 384),
  "dinov2": ("Dinov2Model", 14, None),
}
_CLIP = (32, 768)  # ViT-B/32
WORLD = "world"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """One judge.

  Attributes:
    prepare: a uint8 picture of any size -> the pixels that it takes, (H, W, 3)
      float32.
    encode: prepared pictures -> unit (N, D) float32.
    record: class, size, fingerprint, preprocessing: for metrics.json.
    key: a hash of the record, so that embeddings of two are not mixed.
    expected: whether it is the one that the protocol names.
  """

  prepare: Callable[[np.ndarray], np.ndarray]
  encode: Callable[[Sequence[np.ndarray]], np.ndarray]
  record: dict[str, Any]
  key: str
  expected: bool

  def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
    """Uint8 pictures of any size -> unit (N, D) float32."""
    return self.encode([self.prepare(image) for image in images])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoders:
  """The judges of an evaluation.

  Attributes:
    clip: of pictures.
    texts: prompts -> unit (N, D) float32, by the same CLIP.
    identity: of subjects.
    warnings: lines on what is not as the protocol says.
  """

  clip: Encoder
  texts: Callable[[Sequence[str]], np.ndarray]
  identity: Encoder
  warnings: tuple[str, ...]

  @property
  def identity_title(self) -> str:
    """What the identity score may be called."""
    if not self.identity.expected:
      return "identity"
    dinov2 = str(self.identity.record["class"]).startswith("Dinov2")
    return "DINOv2" if dinov2 else "DINO"

  def records(self) -> dict[str, Any]:
    """Both, for metrics.json."""
    return {"clip": self.clip.record, "identity": self.identity.record}


def open_encoders(name_or_dir: str | Path, protocol: Protocol) -> Encoders:
  """Opens what a protocol asks for.

  Args:
    name_or_dir: "world" for those that are shipped, or a folder of folders.
    protocol: names the identity encoder, and how pictures are prepared.

  Raises:
    ValueError: no such folder, none or several of a kind in it, or a damaged
      one.
  """
  world = str(name_or_dir) == WORLD
  if world:
    clip_dir, identity_dir = map(find_model, ("world_clip", "world_identity"))
  else:
    folder = path_of(name_or_dir)
    with contextlib.suppress(FileNotFoundError):
      folder = local(folder)
    found = _configs(folder)
    clip_dir = _choose_clip(folder, found)
    identity_dir = _choose_identity(folder, found, protocol.identity)
  # The world's judges take 64 px: another recipe would be none of theirs.
  pixels = "own" if world else protocol.pixels
  clip_model = open_model(clip_dir, expected=("CLIPModel",))
  clip = _encoder(clip_dir, clip_model, pixels=pixels, kind="clip")
  vit = open_model(identity_dir, expected=IDENTITY)
  identity = _encoder(
    identity_dir, vit, pixels=pixels, kind="identity", wanted=protocol.identity
  )
  positions = clip_model.spec["text_model.embeddings.position_embedding.weight"]
  tokenize = load_tokenizer(clip_dir, max_length=positions.shape[0])
  texts = jax.jit(lambda p, ids: clip_model.apply(p, ids, method="encode_text"))
  return Encoders(
    clip=clip,
    texts=lambda batch: in_rows(
      lambda rows: texts(clip_model.params, tokenize(rows)), batch
    ),
    identity=identity,
    warnings=_warnings(clip, identity, protocol, world=world),
  )


def _configs(folder: Path) -> dict[Path, dict[str, Any]]:
  """The configs of the models in a folder, or in the folder itself."""
  if not folder.is_dir():
    raise ValueError(
      f"--encoders={folder}: no such folder; give 'world', or a folder of "
      "published models: one of CLIP, one of DINO."
    )
  places = sorted(path.parent for path in folder.glob("*/config.json"))
  if not places:
    raise ValueError(
      f"--encoders={folder}: no folder in it has a config.json; expected one "
      "of a CLIPModel, and one of a DINO (ViTModel) or a DINOv2."
    )
  return {place: read_config(place) for place in places}


def _choose_clip(folder: Path, found: dict[Path, dict]) -> Path:
  clips = [p for p, config in found.items() if kind_of(config) == "CLIPModel"]
  return _only(folder, clips, "CLIPModel", "CLIP ViT-B/32")


def _choose_identity(folder: Path, found: dict[Path, dict], wanted: str):
  family, patch, _ = _PUBLISHED[wanted]
  kin = [
    p
    for p, c in found.items()
    if kind_of(c).startswith(family.removesuffix("Model"))
  ]
  near = [p for p in kin if _patch(found[p]) == patch]
  exact = [p for p in near if _is(found[p], wanted)]
  return _only(folder, exact or near or kin, family, wanted)


def _only(folder: Path, places: list[Path], family: str, wanted: str) -> Path:
  if len(places) == 1:
    return places[0]
  what = ", ".join(p.name for p in places) or "none"
  raise ValueError(
    f"--encoders={folder}: expected one {family} ({wanted}) in it, found "
    f"{what}: {'leave one' if places else 'put its published folder'} there."
  )


def _patch(config: dict[str, Any]) -> int:
  """Its patch's side; files may leave out the default of their kind."""
  default = 16 if kind_of(config) == "ViTModel" else 14
  return int(config.get("patch_size", default))


def _is(config: dict[str, Any], wanted: str) -> bool:
  """Whether a config is of the size that was published under a name."""
  kind, patch, width = _PUBLISHED[wanted]
  return (
    kind_of(config) == kind
    and _patch(config) == patch
    and width in (None, config.get("hidden_size", 768))
  )


def _encoder(
  folder: Path, model: Model, *, pixels: str, kind: str, wanted: str = ""
) -> Encoder:
  vision = model.config
  if kind == "clip":
    vision = dict(model.config.get("vision_config") or {})
    expected = (
      vision.get("patch_size", 32),
      vision.get("hidden_size", 768),
    ) == _CLIP
  else:
    expected = _is(dict(model.config), wanted)
  size_px = int(vision.get("image_size", 224))
  if kind != "clip" and model.kind.startswith("Dinov2"):
    size_px = 224  # its positions are those of 518 px, its use is at 224
  read, how = _pixels(folder, pixels, kind=kind, size_px=size_px)
  run = image_encoder(model)
  facts = {
    "folder": folder.name,
    "class": model.kind,
    "patch_size": vision.get("patch_size"),
    "width": vision.get("hidden_size"),
    "fingerprint": fingerprint(folder),
    "pixels": how,
  }
  return Encoder(
    prepare=lambda image: read([image])[0],
    encode=lambda prepared: in_rows(
      lambda rows: run(model.params, _stack(rows)), prepared
    ),
    record=facts,
    key=content_key(*(f"{k}={v}" for k, v in sorted(facts.items()))),
    expected=expected and not folder.is_relative_to(PRETRAINED),
  )


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Prepared pictures as one array."""
  if len(sizes := {f"{x.shape[0]}x{x.shape[1]}" for x in rows}) > 1:
    raise ValueError(
      "--variant=own-pixels: the file beside the encoder keeps proportions and "
      f"crops nothing, which made {', '.join(sorted(sizes))}: leave the "
      "variant out, or give pictures of one shape."
    )
  return np.stack(rows)


def _pixels(
  folder: Path, pixels: str, *, kind: str, size_px: int
) -> tuple[PixelReader, Any]:
  """How pictures are prepared, and a record of it."""
  if pixels == "own":
    return load_pixel_reader(folder), "the file beside the encoder"
  # DINO's recipe resizes to 256 before it cuts 224; CLIP's cuts nothing off
  # the shorter side.
  edge = size_px if kind == "clip" else round(size_px * 256 / 224)
  config: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": edge},
    "crop_size": {"height": size_px, "width": size_px},
    "resample": _BICUBIC,
    **(_OPENAI if kind == "clip" else _IMAGENET),
  }
  if pixels == "squash":
    config |= {
      "size": {"height": size_px, "width": size_px},
      "do_center_crop": False,
    }
  return make_pixel_reader(config), config


def _warnings(
  clip: Encoder, identity: Encoder, protocol: Protocol, *, world: bool
) -> tuple[str, ...]:
  if world:
    return (
      "encoders: SubjectWorld's own, which have seen no photograph. Not "
      "comparable with scores by published encoders.",
    )
  lines = []
  for encoder, wanted in ((clip, "CLIP ViT-B/32"), (identity, "")):
    if not encoder.expected:
      facts = encoder.record
      lines.append(
        f"encoders: {facts['folder']} ({facts['class']}, patch "
        f"{facts['patch_size']}, width {facts['width']}) is not "
        f"{wanted or protocol.identity}. Not comparable with scores by it."
      )
  return tuple(lines)
