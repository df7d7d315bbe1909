# SPDX-License-Identifier: Apache-2.0
"""DreamBench's protocol and its variants in torch, written from their words.

As ImagenHub's published metric has it: a cosine of one generated and one real
picture, which a caller averages; pixels by Pillow's bicubic filter, a centre
crop, ImageNet's or OpenAI's mean and deviation. Only parity tests import this;
as a command it writes the goldens.

  SUTI_DREAMBENCH=... python -m tests.evaluation.torch_protocol
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image

from tests.evaluation import protocol_case as case

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "evaluation.json"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = (
  (0.48145466, 0.4578275, 0.40821073),
  (0.26862954, 0.26130258, 0.27577711),
)


def prepare(image: Image.Image, *, edge: int, crop: int, norm) -> torch.Tensor:
  """Resize the shorter side, crop the centre, to a tensor, normalise."""
  short = min(image.size)
  width, height = (int(edge * side / short) for side in image.size)
  image = image.resize((width, height), Image.Resampling.BICUBIC)
  left, top = round((width - crop) / 2), round((height - crop) / 2)
  return tensor(image.crop((left, top, left + crop, top + crop)), norm)


def squash(image: Image.Image, *, side: int, norm, how=3) -> torch.Tensor:
  """Resize to a square, whatever the proportions were."""
  return tensor(image.resize((side, side), Image.Resampling(how)), norm)


def tensor(image: Image.Image, norm) -> torch.Tensor:
  x_HWC = torch.from_numpy(np.array(image)).float() / 255
  mean, std = (torch.tensor(values) for values in norm)
  return ((x_HWC - mean) / std).permute(2, 0, 1)[None]


def cut_out(path: pathlib.Path) -> Image.Image:
  """The subject on white, cut to the box of its mask."""
  image = Image.open(path).convert("RGB")
  mask = Image.open(path.with_name(f"{path.stem}.mask.png")).convert("L")
  white = Image.new("RGB", image.size, "white")
  return Image.composite(image, white, mask).crop(mask.getbbox())


class Judges:
  """The encoders of one folder, by transformers."""

  def __init__(self, folder: pathlib.Path, identity: str):
    self.clip = transformers.CLIPModel.from_pretrained(folder / "clip").eval()
    self.tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
      folder / "clip"
    )
    cls = (
      transformers.Dinov2Model
      if identity == "dinov2"
      else transformers.ViTModel
    )
    options = {} if identity == "dinov2" else {"add_pooling_layer": False}
    self.vit = cls.from_pretrained(folder / identity, **options).eval()

  @torch.no_grad()
  def embed_clip(self, x_BCHW: torch.Tensor) -> np.ndarray:
    states = self.clip.vision_model(pixel_values=x_BCHW).pooler_output
    return self.clip.visual_projection(states)[0].numpy()

  @torch.no_grad()
  def embed_identity(self, x_BCHW: torch.Tensor) -> np.ndarray:
    return self.vit(pixel_values=x_BCHW).last_hidden_state[0, 0].numpy()

  @torch.no_grad()
  def embed_text(self, text: str) -> np.ndarray:
    ids = self.tokenizer(
      text, padding="max_length", max_length=case.LENGTH, return_tensors="pt"
    )
    states = self.clip.text_model(
      input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
    ).pooler_output
    return self.clip.text_projection(states)[0].numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
  return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def scores(
  reading, folder: pathlib.Path, variant: tuple[str, ...]
) -> dict[str, float]:
  """Identity, CLIP-I and CLIP-T of a case, by loops over pairs."""
  name = case.VARIANTS[variant]
  judges = Judges(folder, name)
  masked = "masked-dinov2" in variant

  def open_image(path):
    return cut_out(path) if masked else Image.open(path).convert("RGB")

  def identity(path):
    image = open_image(path)
    if "squash" in variant:
      return judges.embed_identity(squash(image, side=224, norm=IMAGENET))
    if "own-pixels" in variant:  # bilinear, as the file beside it says
      x = squash(image, side=224, norm=IMAGENET, how=2)
      return judges.embed_identity(x)
    return judges.embed_identity(
      prepare(image, edge=256, crop=224, norm=IMAGENET)
    )

  def clip(path):
    image = Image.open(path).convert("RGB")
    if "squash" in variant:
      return judges.embed_clip(squash(image, side=224, norm=OPENAI))
    return judges.embed_clip(prepare(image, edge=224, crop=224, norm=OPENAI))

  prefix = "A photo depicts " if "photo-prefix" in variant else ""
  pairs, texts = {}, {}
  for picture in reading.pictures:
    subject = reading.benchmark.subjects[picture.subject]
    references = subject.references
    if "single-reference" in variant:
      # The list's choice is 02 for both; the vase has two photographs here.
      chosen = [p for p in references if p.stem == "02"]
      references = chosen or references[:1]
    found = pairs.setdefault(picture.subject, {"identity": [], "clip_i": []})
    ours = identity(picture.path), clip(picture.path)
    for path in references:
      found["identity"].append(cosine(ours[0], identity(path)))
      found["clip_i"].append(cosine(ours[1], clip(path)))
    text = cosine(ours[1], judges.embed_text(prefix + picture.prompt))
    if "clipscore" in variant:
      text = 2.5 * max(text, 0.0)
    texts.setdefault(picture.subject, []).append(text)

  def average(groups):
    if "subject-mean" in variant:
      return float(np.mean([np.mean(group) for group in groups]))
    return float(np.mean(np.concatenate([np.array(g) for g in groups])))

  return {
    "identity": average([found["identity"] for found in pairs.values()]),
    "clip_i": average([found["clip_i"] for found in pairs.values()]),
    "clip_t": average(texts.values()),
  }


def main() -> None:
  """Writes the goldens."""
  goldens = {}
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    reading = case.write_case(folder / "case")
    for variant, identity in case.VARIANTS.items():
      encoders = folder / identity
      if not encoders.is_dir():
        case.write_encoders(encoders, identity)
      goldens["+".join(variant) or "protocol"] = scores(
        reading, encoders, variant
      )
  GOLDENS.write_text(json.dumps(goldens, indent=1) + "\n")
  print(GOLDENS.read_text())


if __name__ == "__main__":
  main()
