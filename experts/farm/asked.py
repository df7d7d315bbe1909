# SPDX-License-Identifier: Apache-2.0
"""What a request holds beside texts, as far as its teacher asks for it.

`experts.teacher.ASKED` says what there is. The subject's pictures are those of
its cluster; the noun's tokens follow from the prompt; views of known geometry
are the labels of the cluster's pictures (`experts.label`), whose colours have
no part in it: SynCD (arXiv 2502.01720, section 3.2) has renders of Objaverse.

A subject of which something is missing is not sampled: it is quarantined, with
the cause.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experts.clusters import read_clusters, readable
from experts.farm.rows import Row
from experts.farm.waves import PICTURES
from experts.label import read_labels
from experts.teacher import LINKS, Teacher
from suti.correspondence import depth_u8, link, overlaps, view_of_label
from suti.pipeline.backbone import Backbone
from suti.pipeline.text_encoders import Tokenizer, open_tokenizer
from suti.schema import Label

# E experts, B rows of one, K pictures of a cluster, H W C latent, L tokens, R
# side of a view, T views of a set.

# Of views' masks and links, at most: SynCD's code has as many.
_SIDE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What some experts' requests hold beside texts.

  Attributes:
    of_cluster: arrays with E in front.
    of_rows: of each expert and each of its rows, arrays by name.
    causes: of each expert why it cannot be sampled, "" if it can.
  """

  of_cluster: Mapping[str, np.ndarray]
  of_rows: Sequence[Sequence[Mapping[str, np.ndarray]]]
  causes: Sequence[str]

  def of_experts(self, some: slice) -> "Asked":
    """The same of some of the experts."""
    return Asked(
      of_cluster={name: x_E[some] for name, x_E in self.of_cluster.items()},
      of_rows=self.of_rows[some],
      causes=self.causes[some],
    )


# (clusters of E experts, rows of each) -> Asked.
Ask = Callable[[Sequence[str], Sequence[Sequence[Row]]], Asked]


def open_asked(
  teacher: Teacher, backbone: Backbone, config: Any, workdir: Path
) -> Ask:
  """Opens what a teacher asks for.

  Raises:
    ValueError: it asks for views, and there are no labels.
  """
  asked = teacher.asked(config)
  labels: Mapping[str, Sequence[Label]] = {}
  if "views" in asked:
    check_views(config)
    labels = read_labels(workdir, config)
  tokenizer = open_tokenizer(backbone.folder) if "noun" in asked else None

  def ask(keys: Sequence[str], rows: Sequence[Sequence[Row]]) -> Asked:
    of_cluster: dict[str, np.ndarray] = {}
    of_rows: list[list[dict]] = [[{} for _ in each] for each in rows]
    causes = [""] * len(keys)
    if "pictures" in asked or tokenizer is not None:
      found, damaged = readable(read_clusters(workdir), keys)
      causes = [damaged.get(key, "") for key in keys]
    if "pictures" in asked:
      # An expert whose cluster cannot be read gets any pictures.
      neighbour = next(iter(found.values()))
      of_cluster = encode_pictures(
        [found.get(key, neighbour).images for key in keys], backbone, config
      )
    for index, (key, each) in enumerate(zip(keys, rows, strict=True)):
      if tokenizer is not None and not causes[index]:
        tokens, causes[index] = noun_tokens(
          [row.text for row in each], found[key].subject, tokenizer
        )
        _add(of_rows[index], tokens)
      if "views" in asked:
        views, causes[index] = views_of(
          labels.get(key, ()), len(each), backbone, config
        )
        _add(of_rows[index], views)
    blank = _blank_row(asked, backbone, config)
    for each in of_rows:
      each[:] = [row or blank for row in each]
    return Asked(of_cluster=of_cluster, of_rows=of_rows, causes=causes)

  return ask


def _add(rows: list[dict], more: Sequence[Mapping[str, np.ndarray]]) -> None:
  for row, each in zip(rows, more, strict=False):
    row |= each


def blank(teacher: Teacher, backbone: Backbone, config: Any) -> Asked:
  """The same of one expert of whom nothing is known: its shapes, for plans."""
  asked, of_cluster = teacher.asked(config), {}
  if "pictures" in asked:
    num = _num_pictures(config)
    shape = (1, num, *backbone.latent_shape)
    of_cluster = {
      "pictures_KHWC": np.zeros(shape, np.float32),
      "pictures_K": np.zeros((1, num), bool),
    }
  row = _blank_row(asked, backbone, config)
  return Asked(of_cluster=of_cluster, of_rows=[[row]], causes=[""])


def _blank_row(
  asked: Sequence[str], backbone: Backbone, config: Any
) -> dict[str, np.ndarray]:
  """What a row holds that is asked for and not known: zeros."""
  row: dict[str, np.ndarray] = {}
  if "noun" in asked:
    length = backbone.encode_text([""])["text_BLD"].shape[1]
    row["noun_BL"] = np.zeros(length, bool)
  if "views" in asked:
    plane = (_side(config),) * 2
    row |= {
      "depth_BHWC": np.zeros(backbone.latent_shape, np.float32),
      "mask_BRR": np.zeros(plane, bool),
      "at_BRR2": np.zeros((*plane, 2), np.float32),
      "shown_BRR": np.zeros(plane, bool),
      "next_BRR2": np.zeros((*plane, 2), np.float32),
      "next_shown_BRR": np.zeros(plane, bool),
    }
  return row


def _num_pictures(config: Any) -> int:
  return max(config.mine.max_images, PICTURES)


def _side(config: Any) -> int:
  return min(config.size_px, _SIDE)


# --- Pictures ----------------------------------------------------------------


def encode_pictures(
  images: Sequence[Sequence[np.ndarray]], backbone: Backbone, config
) -> dict[str, np.ndarray]:
  """The pictures of some clusters as a request holds them.

  Returns: `pictures_KHWC`, as latents, and `pictures_K`, which of them there
    are, with E in front; K is the same for all clusters of a config.
  """
  num = _num_pictures(config)
  x_EKHWC = np.zeros((len(images), num, *backbone.latent_shape), np.float32)
  is_there_EK = np.zeros((len(images), num), bool)
  flat = backbone.encode_pictures([image for each in images for image in each])
  start = 0
  for index, each in enumerate(images):
    x_EKHWC[index, : len(each)] = flat[start : start + len(each)]
    is_there_EK[index, : len(each)] = True
    start += len(each)
  return {"pictures_KHWC": x_EKHWC, "pictures_K": is_there_EK}


# --- The noun's tokens -------------------------------------------------------


def noun_tokens(
  texts: Sequence[str], noun: str, tokenizer: Tokenizer
) -> tuple[list[dict[str, np.ndarray]], str]:
  """Which tokens of each text are its subject's noun.

  Where the noun stands twice, its last place counts, as in SynCD's code, which
  takes the third token where it does not stand at all; here that is a cause.

  Args:
    texts: of the rows.
    noun: of the subject.
    tokenizer: of the text encoder whose states are attended to.

  Returns: `noun_BL` of each, and why there is none, "" if there is.
  """
  ids_BL, is_text_BL = tokenizer.with_mask([*texts, noun, ""])
  around = set(ids_BL[-1][is_text_BL[-1]].tolist())  # begin and end of any text
  wanted = [i for i in ids_BL[-2][is_text_BL[-2]].tolist() if i not in around]
  found = []
  for text, ids_L in zip(texts, ids_BL[:-2].tolist(), strict=True):
    starts = [
      start
      for start in range(len(ids_L) - len(wanted) + 1)
      if ids_L[start : start + len(wanted)] == wanted
    ]
    if not starts or not wanted:
      return [], f"the prompt '{text}' does not name its subject, '{noun}'"
    noun_L = np.zeros(len(ids_L), bool)
    noun_L[starts[-1] : starts[-1] + len(wanted)] = True
    found.append({"noun_BL": noun_L})
  return found, ""


# --- Views of known geometry -------------------------------------------------


def check_views(config: Any) -> None:
  """Checks that pictures are labelled by who knows their geometry.

  Raises:
    ValueError: they are not.
  """
  if config.label.source != "world":
    raise ValueError(
      f"config.label.source='{config.label.source}': the teacher "
      f"'{config.finetune.teacher}' asks for depths and cameras of the "
      "subjects, as config.finetune.depth_net="
      f"'{config.finetune.depth_net}' says, and they are known of "
      "SubjectWorld's renders: set config.label.source=world, or "
      "config.finetune.depth_net='' for subjects without geometry."
    )


def views_of(
  labels: Sequence[Label], num_rows: int, backbone: Backbone, config: Any
) -> tuple[list[dict[str, np.ndarray]], str]:
  """Views of one subject for its rows, a set of them for each set of rows.

  The first set of rows gets the views that have least in common, as SynCD's
  code does; if there are more sets of rows than of views, these are used again.

  Args:
    labels: of the cluster's pictures.
    num_rows: a multiple of `config.sample.together`.
    backbone: encodes the depths.
    config: the whole config.

  Returns: what each row holds, and why there is nothing, "" if there is.
  """
  sample, together = config.sample, config.sample.together
  known = [
    (each.depth, each.masks[0], each.camera)
    for each in labels
    if each.depth is not None
    and each.camera is not None
    and each.masks[0].mean() >= sample.view_area
  ]
  side = _side(config)
  views = [view_of_label(*each, side=side) for each in known]
  sets = choose_sets(
    overlaps(views), together=together, least=sample.view_overlap
  )
  if not sets:
    return [], (
      f"of its {len(labels)} pictures {len(known)} show enough of the subject "
      f"in known geometry, and no {together} of them share "
      f"{sample.view_overlap:.0%} of the frame in pairs"
    )
  used = sorted({number for each in sets for number in each})
  depth_NHWC = backbone.encode_pictures([depth_u8(*known[i][:2]) for i in used])
  rows = []
  for group in range(num_rows // together):
    chosen = sets[group % len(sets)]
    links = link([views[i] for i in chosen], source=sample.view_source)
    for place, number in enumerate(chosen):
      rows.append(
        {
          "depth_BHWC": depth_NHWC[used.index(number)],
          "mask_BRR": views[number]["mask"],
        }
        | {n: links[n.replace("BRR", "TRR")][place] for n in LINKS}
      )
  return rows, ""


def choose_sets(
  share_TT: np.ndarray, *, together: int, least: float
) -> list[tuple[int, ...]]:
  """Sets of views each pair of which has enough in common, the least first.

  Args:
    share_TT: of `suti.correspondence.overlaps`.
    together: views of a set.
    least: share of the frame that a pair must both show.
  """
  found = []
  for numbers in itertools.combinations(range(len(share_TT)), together):
    shares = [share_TT[pair] for pair in itertools.combinations(numbers, 2)]
    if all(share > least for share in shares):
      found.append((sum(shares), numbers))
  return [numbers for _, numbers in sorted(found)]
