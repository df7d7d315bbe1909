# SPDX-License-Identifier: Apache-2.0
"""What a perfect teacher would pack: true renders for unseen prompts.

SuTI's apprentice learns from half a million drawings of experts; a machine
with two cores makes a few hundred in a day. So the shipped apprentice learns
first from these examples, whose target is a true render of the subject in the
prompt's scene, and then from experts' drawings. Examples have the record and
the files of `experts.pack`: the apprentice cannot tell who taught it.

  python -m suti.pretrain.examples \
      --config configs/pretrain/examples.py --workdir runs/pretrain
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from suti.evaluation.scores import load_scorer
from suti.io.records import write_examples
from suti.pretrain.pictures import Pool, render_pool
from suti.runtime import stage
from suti.schema import Example, content_key

# N pictures of the pool, D embedding width.


def make_examples(
  pool: Pool,
  images_ND: np.ndarray,
  texts_ND: np.ndarray,
  *,
  num_examples: int,
  num_demonstrations: int,
  seed: int,
) -> Iterator[Example]:
  """Pairs a picture of the pool with others of its subject.

  Args:
    pool: the pictures, those of a subject side by side.
    images_ND, texts_ND: unit CLIP embeddings of pictures and plain captions.
    num_examples: how many to make.
    num_demonstrations: pictures beside each target.
    seed: of the choice.

  Yields: examples whose demonstrations show the subject as it is, in scenes
    other than the target's.
  """
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(pool.shots))[:num_examples]
  for target in map(int, order):
    same_N = pool.subject_N == pool.subject_N[target]
    template = pool.shots[target].template
    others = [
      row
      for row in map(int, np.flatnonzero(same_N & pool.identity_N))
      if row != target and pool.shots[row].template != template
    ]
    rows = [int(row) for row in rng.permutation(others)[:num_demonstrations]]
    if template < 0 or not rows:
      continue
    clip_t = images_ND[target] @ texts_ND[target]
    yield Example(
      key=content_key(pool.image_u8_NHWC[target], pool.plain[target]),
      cluster=content_key("pool", int(pool.shots[target].subject)),
      prompt=pool.plain[target],
      image=pool.image_u8_NHWC[target],
      demonstrations=tuple(pool.image_u8_NHWC[row] for row in rows),
      captions=tuple(pool.plain[row] for row in rows),
      delta_clip=float(clip_t - (images_ND[rows] @ texts_ND[target]).max()),
    )


def run(config: Any, workdir: Path) -> dict:
  """Writes the examples as a TFDS folder.

  Args:
    config: see configs/pretrain/examples.py.
    workdir: holds the pool; `examples/` goes there.

  Returns: how many there are.
  """
  current = stage.stage(workdir, "examples", config.to_dict())
  if current.done is not None:
    return current.done
  pool = render_pool(config.pool, workdir / "pool", size_px=config.size_px)
  scorer = load_scorer(clip=config.clip)
  texts = {text: None for text in pool.plain}
  embedded = scorer.clip_texts(list(texts))
  of_text = dict(zip(texts, embedded, strict=True))
  blocks = [
    scorer.clip_images(list(pool.image_u8_NHWC[start : start + 1024]))
    for start in stage.progress(range(0, len(pool.shots), 1024), "CLIP")
  ]
  examples = make_examples(
    pool,
    np.concatenate(blocks),
    np.stack([of_text[text] for text in pool.plain]),
    num_examples=config.num_examples,
    num_demonstrations=config.num_demonstrations,
    seed=config.seed,
  )
  count = write_examples(
    current.folder / "shards",
    stage.progress(examples, "examples", total=config.num_examples),
    shard_size=config.shard_size,
  )
  return current.finish({"examples": count})


if __name__ == "__main__":
  stage.main("pretrain.examples", run)
