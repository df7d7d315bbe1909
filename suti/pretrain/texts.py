# SPDX-License-Identifier: Apache-2.0
"""The texts of a pool's pictures, put into words and tokens once.

A loader that looks up tokens outruns an accelerator; one that puts words
together in each step does not.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from suti.hf.tokenizer import Tokenizer
from suti.pretrain.pictures import Pool
from suti.runtime.stage import progress
from suti.world.other_words import in_other_words

# N pictures of the pool, V ways of putting it, L text tokens.

_WAYS = 4  # of putting a picture's text in other words


def check_shares(shares: Mapping[str, float]) -> None:
  """Sees that the kinds of texts share out all pictures.

  Raises:
    ValueError: their shares are not 1 together, or one is below 0.
  """
  total = sum(shares.values())
  if min(shares.values(), default=0) < 0 or not math.isclose(
    total, 1, abs_tol=1e-8
  ):
    told = ", ".join(f"{kind}={share}" for kind, share in shares.items())
    raise ValueError(
      f"config.texts has the shares {told}, {total:g} together: expected 1, "
      "and none below 0; change the others too."
    )


def put_into_words(
  kinds: Iterable[str], pool: Pool, *, seed: int
) -> dict[str, list[list[str]]]:
  """Texts of all pictures.

  Args:
    kinds: of "plain", as the benchmark's prompts are, "a dog in the snow";
      "detailed", with the subject's colours and parts; "other_words", as people
      put it.
    pool: the pictures.
    seed: of the other words.

  Returns: {kind: a list of N texts for each way of putting it}.

  Raises:
    ValueError: no such kind.
  """
  rng = np.random.default_rng(seed)
  ways = {
    "plain": lambda: [list(pool.plain)],
    "detailed": lambda: [list(pool.detailed)],
    "other_words": lambda: [
      [in_other_words(shot, rng) for shot in pool.shots] for _ in range(_WAYS)
    ],
  }
  kinds = sorted(kinds)
  if unknown := set(kinds) - set(ways):
    raise ValueError(
      f"config.texts has {sorted(unknown)[0]!r}: expected shares of "
      f"{', '.join(ways)}."
    )
  return {kind: ways[kind]() for kind in progress(kinds, "texts")}


def tokenize_all(
  said: dict[str, list[list[str]]], tokenize: Tokenizer
) -> dict[str, np.ndarray]:
  """Tokens of texts, {kind: int32 (V, N, L)}.

  Args:
    said: of `put_into_words`.
    tokenize: texts -> tokens.
  """
  return {
    kind: np.stack([np.asarray(tokenize(texts), np.int32) for texts in ways])
    for kind, ways in progress(list(said.items()), "tokens")
  }
