# SPDX-License-Identifier: Apache-2.0
"""Texts of a pool, put into words and tokens once; batches look them up."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from suti.pretrain.text_to_image import make_batch_at
from suti.pretrain.texts import check_shares, put_into_words, tokenize_all
from suti.world.dataset import Shot

SHARES = {"plain": 0.5, "detailed": 0.25, "other_words": 0.25}


@pytest.fixture(scope="module")
def pool():
  shots = [Shot(subject=n, template=n, seed=n) for n in range(6)]
  return types.SimpleNamespace(
    shots=shots,
    plain=[f"plain {n}" for n in range(6)],
    detailed=[f"detailed {n}" for n in range(6)],
  )


def test_each_kind_has_a_text_of_each_picture(pool):
  said = put_into_words(SHARES, pool, seed=0)
  assert said["plain"] == [pool.plain]
  assert said["detailed"] == [pool.detailed]
  assert [len(way) for way in said["other_words"]] == [6] * 4
  assert len({text for way in said["other_words"] for text in way}) > 12
  assert said == put_into_words(SHARES, pool, seed=0)
  assert said != put_into_words(SHARES, pool, seed=1)


def test_no_such_kind(pool):
  with pytest.raises(ValueError, match="has 'prose': expected shares of plain"):
    put_into_words(["plain", "prose"], pool, seed=0)


@pytest.mark.parametrize("other", [0.6, -0.5, 0.4])
def test_shares_that_are_not_one_together(other):
  check_shares({"plain": 0.5, "detailed": 0.5})
  line = f"plain=0.5, other_words={other}, .* together: expected 1"
  with pytest.raises(ValueError, match=line):
    check_shares({"plain": 0.5, "other_words": other})


def test_a_batch_has_texts_of_its_pictures_by_the_shares(pool):
  said = put_into_words(SHARES, pool, seed=0)
  known = {"": 0}

  def tokenize(texts):
    return [[known.setdefault(text, len(known))] * 2 for text in texts]

  tables = tokenize_all(said, tokenize)
  assert {k: t.shape for k, t in tables.items()} == {
    "plain": (1, 6, 2),
    "detailed": (1, 6, 2),
    "other_words": (4, 6, 2),
  }
  config = ConfigDict(
    {"batch_size": 4000, "texts": SHARES, "text_dropout": 0.1}
  )
  images = np.arange(6, dtype=np.uint8)[:, None]
  batch_at = make_batch_at(config, tables, np.zeros(2, np.int32), images)
  batch = batch_at(np.random.default_rng(0))
  text_of = {number: text for text, number in known.items()}
  # Two pictures may be put in the same other words.
  of_picture = [
    {way[row] for ways in said.values() for way in ways} for row in range(6)
  ]
  counts = {"": 0, "plain": 0, "detailed": 0, "other_words": 0}
  for (row,), (number, _) in zip(batch["x"], batch["ids"], strict=True):
    text = text_of[number]
    assert not text or text in of_picture[row]
    kind = text.partition(" ")[0] if text else ""
    counts[kind if kind in counts else "other_words"] += 1
  shares = {kind: count / 4000 for kind, count in counts.items()}
  assert shares == pytest.approx(
    {"": 0.1, "plain": 0.45, "detailed": 0.225, "other_words": 0.225}, abs=0.03
  )
  again = batch_at(np.random.default_rng(0))
  np.testing.assert_array_equal(again["ids"], batch["ids"])


def test_where_there_is_an_accelerator_batches_are_the_same(pool, monkeypatch):
  said = put_into_words(["plain"], pool, seed=0)
  tables = tokenize_all(said, lambda texts: [[7, 8]] * len(texts))
  config = ConfigDict(
    {"batch_size": 8, "texts": {"plain": 1.0}, "text_dropout": 0.5}
  )
  images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), np.uint8)
  batches = []
  for backend in ("cpu", "gpu"):
    monkeypatch.setattr("jax.default_backend", lambda name=backend: name)
    batch_at = make_batch_at(config, tables, np.zeros(2, np.int32), images)
    batches.append(batch_at(np.random.default_rng(3)))
  for field in ("x", "ids"):
    np.testing.assert_array_equal(*(np.asarray(b[field]) for b in batches))
