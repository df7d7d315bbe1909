# SPDX-License-Identifier: Apache-2.0
"""What SynCD's published code and ours are both run on: random, and tiny.

`make_syncd.py` ran the publishers' functions on these inputs and stored what
they returned in `syncd.safetensors`; the tests run ours. Weights and inputs are
drawn from names, so that none are stored. Nothing here needs torch.

Shape legend: N pictures of a call (the target, then K references), T pictures
of a set, B rows of a call, H W C latent, X what CLIP says of a picture, P
positions of a map, R side of a grid.
"""

import pathlib
from typing import Any

import numpy as np

from apprentice.methods import syncd
from configs.apprentice.syncd_world import get_config
from suti.hf.layout import order, published_shape
from suti.nn.nets import functional_nets
from suti.nn.param import Param
from suti.pipeline.backbone import Backbone, load_backbone
from tests.goldens import drawing
from tests.pipeline import tiny_pipelines

FILE = pathlib.Path(__file__).parent / "syncd.safetensors"

# --- The method: one call of their pipeline ----------------------------------

K = 3
SIDE = 16  # of a latent
RANK, DILATION = 2, 5
SCALE = 0.6  # of the picture that the target sees as a whole
STEPS = 2  # of their sampler
TEXT_SCALE, SUBJECT_SCALE, SUBJECT_RAMP = 7.5, 8.0, 5.0  # their sample.py's
BRANCHES = ("nothing", "subject", "full")  # the order of their batch
# Two levels that attend, one layer each: a test compiles it.
_UNET = {
  "attention_head_dim": [1, 2],
  "block_out_channels": [8, 16],
  "down_block_types": ["CrossAttnDownBlock2D"] * 2,
  "transformer_layers_per_block": [1, 1],
  "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}
_TEXT = {"text_BLD": (5, 24), "pooled_BD": (6,)}


def nets(
  folder: pathlib.Path, clip: pathlib.Path
) -> tuple[Backbone, dict, Any]:
  """Declares the method on a tiny SDXL, which is written to a folder.

  Args:
    folder: for the base.
    clip: of a tiny CLIP, which says of what shape features are.

  Returns: the base, the parameters' declarations, `apply`.
  """
  backbone = load_backbone(tiny_pipelines.write("sdxl", folder, unet=_UNET))
  config = get_config().unlock().method
  config.update(
    encoder=str(clip),
    rank=RANK,
    num_tokens=3,
    width=24,
    depth=4,  # diffusers' loader knows no other
    num_heads=2,
    mask_dilation=DILATION,
  )
  spec, apply = functional_nets(syncd.declare(backbone, config))
  return backbone, spec, apply


def published(spec: dict[str, Param]) -> dict[str, np.ndarray]:
  """Draws every array, as published files hold it."""
  return {
    name: drawing.draw(name, published_shape(p)) for name, p in spec.items()
  }


def ours(spec: dict[str, Param]) -> dict[str, np.ndarray]:
  """The same arrays as we hold them."""
  return {
    name: np.ascontiguousarray(np.transpose(x, order(spec[name])))
    for name, x in published(spec).items()
  }


def texts(hidden: bool) -> dict[str, np.ndarray]:
  """What the N pictures are conditioned on; other texts where it is hidden."""
  name = "syncd.null" if hidden else "syncd"
  found = {
    part: drawing.normal(f"{name}.{part}", (1 + K, *shape))
    for part, shape in _TEXT.items()
  }
  pixels = 8.0 * SIDE  # as their pipeline counts without an autoencoder
  sizes = np.asarray([pixels, pixels, 0, 0, pixels, pixels], np.float32)
  return found | {"time_ids_BI": np.tile(sizes, (1 + K, 1))}


def features(shape: tuple[int, ...]) -> np.ndarray:
  """What CLIP says of the K references."""
  return drawing.normal("syncd.features", (K, *shape))


def masks() -> np.ndarray:
  """Where the subject is in each reference, (K, H, W): 0, between, or 1."""
  drawn_KHW = drawing.normal("syncd.masks", (K, SIDE, SIDE))
  return np.clip(drawn_KHW, 0, 1)


def silhouettes() -> np.ndarray:
  """Masks of pictures, bool (K, 8 H, 8 W): a disc, bars, dots and a blob."""
  row, column = np.mgrid[: 8 * SIDE, : 8 * SIDE]
  found = np.stack(
    [
      np.hypot(row - 60, column - 41) < 33.3,
      (np.abs(row - column - 9) < 3) | (row > 118),
      np.hypot(row - 90, column - 100) < 12,
    ]
  )
  rng = np.random.RandomState(0)
  found[2, rng.randint(0, 8 * SIDE, 9), rng.randint(0, 8 * SIDE, 9)] = True
  return found


def latents() -> np.ndarray:
  """Of the N pictures: noise for the target, and the references."""
  return drawing.normal("syncd.latents", (1 + K, SIDE, SIDE, 4))


# --- Guidance ----------------------------------------------------------------

GUIDANCE_ROWS = 4


def predictions() -> dict[str, np.ndarray]:
  """Of the three branches, (B, H, W, C): directions of very unlike lengths."""
  shape = (GUIDANCE_ROWS, 4, 5, 3)
  nothing = drawing.normal("syncd.nothing", shape)
  lengths_B111 = np.asarray([1, 1e-3, 20, 1], np.float32)[:, None, None, None]
  subject = nothing + lengths_B111 * drawing.normal("syncd.subject", shape)
  full = subject + lengths_B111[::-1] * drawing.normal("syncd.full", shape)
  return {"nothing": nothing, "subject": subject, "full": full}


# --- The teacher's masks -----------------------------------------------------

T = 3
MAPS = 40
MAP_SIDE = 16  # theirs needs 512 positions in all
# Which tokens of each picture's text are the noun's, from the first to behind
# the last.
NOUNS = ((2, 4), (5, 6), (1, 4))
LENGTH = 6  # tokens that are stored; no noun is behind them
LAYERS, HEADS = ("mixed", "single"), 2  # as theirs are called
MASK_PX, TOKENS_SIDE = 512, 32  # of their rigid variant


def maps() -> np.ndarray:
  """Maps that are cut in two, (B, P): noise, squares, and squares in noise."""
  side = MAP_SIDE
  maps_BRR = np.exp(drawing.normal("syncd.maps", (MAPS, side, side)))
  maps_BRR[:10, 2:9, 1:11] += 5
  maps_BRR[10:20, 2:9, 1:11] += 0.5
  return maps_BRR.reshape(MAPS, -1)


def queries(layer: int, step: int, num: int) -> dict[str, np.ndarray]:
  """Of a layer at a step: queries and keys (T * heads, num + P, 4)."""
  shape = (HEADS * T, num + MAP_SIDE**2, 4)
  return {
    x: drawing.normal(f"syncd.{x}.{layer}.{step}", shape) * np.float32(1.5)
    for x in ("queries", "keys")
  }


def views() -> np.ndarray:
  """Masks of T rendered views, bool (T, 512, 512).

  One that is a single pixel, one of slivers and dots, one of a body that
  touches the frame.
  """
  found = np.zeros((T, MASK_PX, MASK_PX), bool)
  found[0, 301, 163] = True
  rng = np.random.RandomState(0)
  found[1, rng.randint(0, MASK_PX, 12), rng.randint(0, MASK_PX, 12)] = True
  found[1, 17, 200:330] = True
  found[2, 350:, 90:210] = True
  return found


# --- The teacher's warp ------------------------------------------------------

GRID = 128  # the side that theirs works on
WARP_SIDE, WARP_WIDTH = 16, 5
LEVELS = {"thick": 0.95, "thin": 0.85}  # of noise: masks are eroded below 0.9


def to_warp() -> np.ndarray:
  """What is denoised of a set, (T, H, W, C)."""
  return drawing.normal("syncd.warp", (T, WARP_SIDE, WARP_SIDE, WARP_WIDTH))


def places() -> tuple[np.ndarray, np.ndarray]:
  """Which pixels correspond (T, T, R, R, 2), and which do (T, T, R, R).

  Of picture i and j > i: where (column, row) in j each pixel of i is, pixel
  centres at .5. Turned, moved and waved, in blobs with holes.
  """
  row, column = np.mgrid[:GRID, :GRID] + 0.5
  places_TTRR2 = np.zeros((T, T, GRID, GRID, 2), np.float32)
  seen_TTRR = np.zeros((T, T, GRID, GRID), bool)
  for i, j in ((0, 1), (0, 2), (1, 2)):
    angle, move = 0.3 * (j - i) + 0.1 * i, 4.0 * (i + j)
    x, y = column - GRID / 2, row - GRID / 2
    at_column = x * np.cos(angle) - y * np.sin(angle) + GRID / 2 + move
    at_row = x * np.sin(angle) + y * np.cos(angle) + GRID / 2
    at_row = at_row + 3 * np.sin(column / 7)
    is_in = (
      (at_column > 0) & (at_column < GRID) & (at_row > 0) & (at_row < GRID)
    )
    inside = np.hypot(x + 9 * i, (y - 5) * (1 + 0.3 * j)) < 40 + 25 * (j - i)
    holes = np.sin(column / (3 + i)) * np.cos(row / (4 + j)) > 0.6
    places_TTRR2[i, j] = np.stack([at_column, at_row], -1)
    seen_TTRR[i, j] = is_in & inside & ~holes
  return places_TTRR2, seen_TTRR
