# SPDX-License-Identifier: Apache-2.0
"""Stage 1: mines clusters, a few pictures of one subject each, from web pairs.

SuTI (arXiv 2304.00186), section 3.1. Pictures under one URL are a page; a page
becomes a cluster if

  1. it has at least `min_images` different pictures (3 in the paper), of which
     none is unlike its own text by CLIP (`text_similarity_low`; the paper
     mentions such a filter in its introduction and gives no threshold), and
  2. the mean CLIP similarity of all pairs of them lies in a band (0.82 to 0.98
     with CLIP ViT-L/14): below are different subjects, above near-duplicates,
  3. their texts name at most one of the known classes (our addition).

The paper's sentence filters out clusters "between 0.82 and 0.98"; that the band
is what is kept is our reading, by its numbers: 18.9% of its 10M clusters are
the 1.8M that it has in the end. Of a page the first 40 pictures are compared
and at most `max_images` (10) kept, the first ones: the paper's clusters have 3
to 10, how larger ones are cut it does not say. CLIP sees pictures whole, as
they were found, and not cut to the size that experts learn at. Folders of
pictures that a user collected are filtered by their number alone.

Pages are processed in parts, the unit of resume. Changes of a source are
detected by a fingerprint of the names and sizes of its pictures, and the
content of some (`suti.io.files.fingerprint`); of a table, of the table alone.
Nothing here trains. SubjectWorld's ground truth is passed on; only `measure`
reads it.
"""

import collections
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experts.clusters import write_clusters
from experts.mining.captions import Match, Texts, classes_named, refine
from experts.mining.decisions import decisions
from experts.mining.embedding import Embedding, like_text
from experts.mining.nouns import KNOWN
from experts.mining.sources import (
  OPENED,
  Page,
  Row,
  open_pages,
  source_path,
)
from experts.mining.tables import folder_of
from suti.evaluation.dreambench import CLASSES
from suti.evaluation.scores import (
  Scorer,
  load_scorer,
  mean_over_distinct_pairs,
)
from suti.hf.find import PRETRAINED, find_model
from suti.images import square_crop_resize
from suti.io.files import read_json, write_json
from suti.io.records import read_records, write_records
from suti.runtime.progress import say
from suti.runtime.stage import main, progress, stage
from suti.schema import Cluster, content_key

# K pictures of a page, D embedding width.

_PAGES_PER_PART = 64


def run(config, workdir: Path) -> dict:
  """Writes experts/mine/clusters.array_record and pages.json."""
  current = stage(
    workdir,
    "experts/mine",
    {
      "seed": config.seed,
      "size_px": config.size_px,
      "clip": config.clip,
      "mine": config.mine,
    },
    folders={"config.clip": find_model(config.clip)}
    | (
      {"config.mine.path": source_path(config.mine)} if config.mine.path else {}
    ),
  )
  if current.done is not None:
    _remove_parts(current.folder)
    return current.done
  if config.mine.source == "heldout":
    return current.finish(_write_heldout(config, current.folder))

  parts = _mine_parts(config, current.folder)
  names = [current.folder / f"part-{i:05d}" for i in range(parts)]
  facts = [f for p in names for f in read_json(p.with_suffix(".json"))]
  if config.mine.source != "world":  # its pages are synthetic
    for line in decisions(facts, config.mine):
      say(line)
  outcomes = collections.Counter(fact["outcome"] for fact in facts)
  if not outcomes["kept"]:
    # The parts depend on this config and are of no use under another.
    _remove_parts(current.folder)
    raise ValueError(_nothing(facts, config.mine) + _unlike(facts, config.mine))
  write_json(current.folder / "pages.json", facts)
  # Pictures stay on disk.
  files = [read_records(p.with_suffix(".array_record"), Cluster) for p in names]
  places = {c.key: (file, i) for file in files for i, c in enumerate(file)}
  keys = sorted(places)
  write_clusters(
    current.folder, keys, (places[key][0][places[key][1]] for key in keys)
  )
  summary = {
    "pages": len(facts),
    "clusters": outcomes.pop("kept"),
    **{f"dropped_{k}": n for k, n in sorted(outcomes.items())},
    "pictures_unreadable": sum(fact["unreadable"] for fact in facts),
    "pictures_repeated": sum(fact["repeated"] for fact in facts),
    "pictures_unlike_text": sum(fact["unlike_text"] for fact in facts),
  } | measure(facts, min_images=config.mine.min_images)
  if config.mine.similarity_low <= -1 and config.mine.similarity_high >= 1:
    summary |= calibrate(facts, min_images=config.mine.min_images)
  current.finish(summary)
  _remove_parts(current.folder)
  return summary


def _mine_parts(config, folder: Path) -> int:
  """Mines the pages that no earlier run has; returns the number of parts.

  A part is done once its part-NNNNN.json is there.
  """
  parts = 0
  while (folder / f"part-{parts:05d}.json").exists():
    parts += 1
  start = parts * _PAGES_PER_PART
  pages, num_pages = open_pages(
    config.mine, seed=config.seed, size_px=config.size_px, start=start
  )
  scorer = load_scorer(clip=config.clip, identity=config.identity)
  match = text_matcher(scorer)
  # The shipped CLIP has no words but those of the classes it was trained on.
  shipped = find_model(config.clip).parent == PRETRAINED
  nouns = CLASSES if shipped else sorted(KNOWN)
  with progress(num_pages, "mine", done=min(start, num_pages)) as bar:
    while group := list(itertools.islice(pages, _PAGES_PER_PART)):
      clusters, facts = mine_pages(
        group,
        config.mine,
        size_px=config.size_px,
        scorer=scorer,
        match=match,
        nouns=nouns,
      )
      part = folder / f"part-{parts:05d}"
      write_records(part.with_suffix(".array_record"), clusters, kind=Cluster)
      # Last: the part counts as done once this file is there.
      write_json(part.with_suffix(".json"), facts)
      parts += 1
      bar.update(len(group))
  return parts


def _remove_parts(folder: Path) -> None:
  """Removes the parts, once clusters.array_record and pages.json have all."""
  for part in folder.glob("part-*"):
    part.unlink()


def _write_heldout(config, folder: Path) -> dict:
  """The benchmark's clusters, held out by SubjectWorld; they are not mined."""
  from suti.world.dataset import heldout

  clusters = sorted(
    heldout(
      config.mine.split,
      num_subjects=config.mine.num_pages,
      images_each=config.mine.max_images,
      size_px=config.size_px,
      nouns=config.mine.nouns,
    ),
    key=lambda cluster: cluster.key,
  )
  write_clusters(folder, [cluster.key for cluster in clusters], iter(clusters))
  return {"clusters": len(clusters)}


def mine_pages(
  pages: Sequence[Page],
  config,
  *,
  size_px: int,
  scorer: Scorer,
  match: Match,
  nouns: Sequence[str] = CLASSES,
) -> tuple[list[Cluster], list[dict]]:
  """Decides which pages are clusters.

  Args:
    pages: a part of the source.
    config: the section `mine`.
    size_px: side of the clusters' pictures.
    scorer: with the CLIP of rule 2.
    match: see `text_matcher`.
    nouns: the nouns that CLIP chooses among, where no text names the subject.

  Returns: the clusters, and for every page the decision and its reason.
  """
  clusters, facts = [], []
  embed = Embedding(scorer)
  opened = [
    _pictures(page, config, size_px=size_px, embed=embed) for page in pages
  ]
  embeddings = iter(embed.all())
  for page, found in zip(pages, opened, strict=True):
    images, rows, originals, fact = found
    vectors_KD = np.array([next(embeddings) for _ in images])
    facts.append(fact)
    if not page.chosen and config.text_similarity_low is not None:
      like = like_text(
        [r.text for r in rows],
        vectors_KD,
        match,
        low=config.text_similarity_low,
      )
      images, rows, originals = (
        [x for x, kept in zip(column, like, strict=True) if kept]
        for column in (images, rows, originals)
      )
      vectors_KD = vectors_KD[like]
      fact |= _seen(rows) | {"unlike_text": int((~like).sum())}
    if len(images) < config.min_images:
      fact["outcome"] = "few_pictures"
      continue
    fact["similarity"] = (
      mean_over_distinct_pairs(vectors_KD) if len(images) > 1 else 1.0
    )
    fact["outcome"] = _outcome(page, rows, fact["similarity"], config)
    if fact["outcome"] != "kept":
      continue
    images, rows, originals = (
      x[: config.max_images] for x in (images, rows, originals)
    )
    texts = refine(
      [row.text for row in rows],
      vectors_KD[: config.max_images],
      match,
      subject=page.subject,
      name=page.name,
      nouns=nouns,
      captions=config.captions,
    )
    fact["noun"], fact["why"] = texts.noun, texts.why
    left_out = ("unreadable", "repeated", "unlike_text")
    fact["unused"] = (
      len(page.rows) - sum(fact[name] for name in left_out) - len(images)
    )
    clusters.append(_cluster(page, texts, images, rows, originals))
  return clusters, facts


def _cluster(
  page: Page,
  texts: Texts,
  images: Sequence[np.ndarray],
  rows: Sequence[Row],
  originals: Sequence,
) -> Cluster:
  """The record of a page that is kept; its truth only if all of it is known."""
  truth = tuple(row.truth for row in rows if row.truth is not None)
  return Cluster(
    key=content_key(page.url, *images),
    subject=texts.noun,
    caption=texts.caption,
    images=tuple(images),
    captions=texts.captions,
    live=texts.live,
    source=page.url,
    truth=truth if len(truth) == len(rows) else None,
    originals=tuple(originals),
  )


def _outcome(page: Page, rows: Sequence[Row], similarity: float, config) -> str:
  """Whether a page's pictures are of one subject: "kept", or why not."""
  if page.chosen:
    return "kept"
  if similarity < config.similarity_low:
    return "different_subjects"
  if similarity > config.similarity_high:
    return "same_picture"
  if len(classes_named([row.text for row in rows])) > 1:
    return "different_classes"
  return "kept"


def _seen(rows: Sequence[Row]) -> dict:
  """What is known of pictures, for evaluation alone, and how many they are."""
  return {
    "pictures": len(rows),
    "truth": [row.truth for row in rows],
    "views": len({row.view for row in rows}),
  }


def _pictures(
  page: Page, config, *, size_px: int, embed: Embedding
) -> tuple[list, list, list, dict]:
  """Opens a page's pictures: square, of one size, without duplicates.

  Each is given to `embed` as it was found.
  """
  images, rows, originals, seen = [], [], [], set()
  unreadable, first_unreadable = 0, ""
  for row in page.rows[: OPENED * config.max_images]:
    try:
      found_u8 = row.load()
      image_u8 = square_crop_resize(found_u8, size_px)
    except ValueError as error:
      # A name on disk may not be valid text; JSON needs it to be.
      text = f"{error}".encode(errors="replace").decode()
      first_unreadable = first_unreadable or text
      unreadable += 1
      continue
    if (key := content_key(image_u8)) not in seen:
      seen.add(key)
      embed.add(found_u8)
      images.append(image_u8)
      rows.append(row)
      originals.append(found_u8.shape[:2])
  fact = {
    "url": page.url,
    "unreadable": unreadable,
    "first_unreadable": first_unreadable,
    "repeated": min(len(page.rows), OPENED * config.max_images)
    - unreadable
    - len(images),
    "unlike_text": 0,
  } | _seen(rows)
  return images, rows, originals, fact


def text_matcher(scorer: Scorer) -> Match:
  """Cosines of embedded pictures and texts; each text is embedded once."""
  known: dict[str, np.ndarray] = {}

  def match(embeddings_KD: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
      known.update(zip(new, scorer.clip_texts(new), strict=True))
    return embeddings_KD @ np.stack([known[text] for text in texts]).T

  return match


def measure(facts: Iterable[dict], *, min_images: int) -> dict[str, float]:
  """Purity and recall of mining by SubjectWorld's truth; evaluation only.

  Args:
    facts: `pages.json`.
    min_images: pictures a cluster needs.

  Returns: `purity`, the share of pictures that show the majority subject of
    their cluster, and `recall`, the share kept of the pages that show only one
    subject in enough different views. {} without ground truth.
  """
  right = total = good = found = 0
  for fact in facts:
    truth = fact["truth"]
    if not truth or None in truth:
      continue
    if fact["outcome"] == "kept":
      right += max(collections.Counter(truth).values())
      total += len(truth)
    if fact["views"] >= min_images and len(set(truth)) == 1:
      good += 1
      found += fact["outcome"] == "kept"
  if not total or not good:
    return {}
  return {"purity": right / total, "recall": found / good}


def calibrate(facts: Iterable[dict], *, min_images: int) -> dict[str, float]:
  """The best similarity band of a CLIP, from pages whose truth is known.

  It is in the summary of a validation split mined with an open band (-1 to 1):
  each bound is where the fewest pages fall on the wrong side.

  Args:
    facts: `pages.json` of that run; {} is returned without truth.
    min_images: pictures a cluster needs.

  Returns: `similarity_low`, between pages of one subject and of several, and
    `similarity_high`, between those and pages of one picture many times.
  """
  one, several, repeated = [], [], []
  for fact in facts:
    if not fact["truth"] or None in fact["truth"]:
      continue
    if "similarity" in fact and fact["outcome"] != "different_classes":
      mixed = len(set(fact["truth"])) > 1
      few = fact["views"] < min_images
      kind = several if mixed else repeated if few else one
      kind.append(fact["similarity"])
  if not one:
    return {}
  return {
    "similarity_low": _boundary(several, one),
    "similarity_high": _boundary(one, repeated),
  }


def _boundary(below: Sequence[float], above: Sequence[float]) -> float:
  """The value with the fewest of `below` over it and of `above` under it."""
  points = sorted({-1.0, 1.0, *below, *above})
  middles = [(a + b) / 2 for a, b in itertools.pairwise(points)]
  wrong = [
    sum(x > m for x in below) + sum(x < m for x in above) for m in middles
  ]
  best = [m for m, w in zip(middles, wrong, strict=True) if w == min(wrong)]
  return best[len(best) // 2]


def _nothing(facts: Sequence[dict], config) -> str:
  """The error message of a source without any cluster."""
  compared = [f for f in facts if "similarity" in f]
  if not compared:
    return _too_few(facts, config)
  outside = [
    f["similarity"] for f in compared if f["outcome"] != "different_classes"
  ]
  reasons = []
  if mixed := len(compared) - len(outside):
    reasons.append(f"the texts of {mixed} name subjects of different classes")
  if outside:
    reasons.append(
      f"mean CLIP similarities {'of the others ' if mixed else ''}are"
      f" {min(outside):.3f} to {max(outside):.3f}, outside the band of"
      f" config.mine.similarity_low={config.similarity_low} to"
      f" config.mine.similarity_high={config.similarity_high}"
    )
  return (
    f"mine kept 0 of {len(facts)} pages: {', and '.join(reasons)}."
    f" {_unreadable(facts)}".rstrip()
  )


def _too_few(facts: Sequence[dict], config) -> str:
  """The error message where every page has too few pictures for an expert."""
  most = max(facts, key=lambda fact: fact["pictures"])
  need = f"experts need {config.min_images} (config.mine.min_images)"
  table = config.source == "table"
  if line := _unreadable(facts):
    where = table and folder_of(source_path(config)).resolve()
    return (
      f"No page of config.mine.path='{config.path}' has enough pictures,"
      f" {need}: {line}"
      + (f" Paths of a table begin in the folder {where}." if table else "")
    )
  if table and len(facts) > 1 and most["pictures"] == 1:
    return (
      f"No page of config.mine.path='{config.path}' has more than 1 picture,"
      f" {need}: url is the page that a picture stands on, not the picture, and"
      " the pictures of one url form a cluster. Give those of one subject the"
      " same url."
    )
  again = (
    f" (and {most['repeated']} that show the same as one of them)"
    if most["repeated"]
    else ""
  )
  return (
    f"Cluster {most['url']} has {most['pictures']} images{again}, and no other "
    f"has more; {need}."
  )


def _unlike(facts: Sequence[dict], config) -> str:
  """How many pictures were left out for their texts; "" if none were."""
  count = sum(fact["unlike_text"] for fact in facts)
  if not count:
    return ""
  return (
    f" {count} pictures were left out before, as unlike their own texts, by"
    f" config.mine.text_similarity_low={config.text_similarity_low}."
  )


def _unreadable(facts: Sequence[dict]) -> str:
  """How many pictures could not be read, and the first error; "" if none."""
  count = sum(fact["unreadable"] for fact in facts)
  if not count:
    return ""
  total = count + sum(fact["pictures"] + fact["repeated"] for fact in facts)
  first = next(f["first_unreadable"] for f in facts if f["unreadable"])
  return f"{count} of {total} pictures could not be read; the first: {first}"


if __name__ == "__main__":
  main("experts.mine", run)
