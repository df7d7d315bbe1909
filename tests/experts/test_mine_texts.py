# SPDX-License-Identifier: Apache-2.0
"""Mining: what a page's texts say of its pictures, and of the subject."""

import dataclasses
import functools

import numpy as np
from PIL import Image

from experts import mine
from experts.clusters import read_clusters
from experts.mining import sources
from experts.mining.decisions import decisions
from experts.mining.embedding import Embedding
from tests.experts import inputs


def test_pictures_unlike_their_texts_are_left_out_and_counted():
  """A picture is compared with its own text; without words it stays."""
  images = inputs.draw_pictures(1, 4)
  vectors = inputs.unit([[1, 0], [1, 0], [0, 1], [0, 1]])
  scorer = dataclasses.replace(
    inputs.colour_scorer(),
    clip_images=lambda batch: vectors[: len(batch)],
    clip_texts=lambda texts: np.tile(vectors[:1], (len(texts), 1)),
  )
  texts = ("a dog", "a dog in the snow", "a dog on sale", "IMG_1.jpg")
  rows = tuple(
    sources.Row(text=text, load=functools.partial(np.asarray, image))
    for image, text in zip(images, texts, strict=True)
  )
  page = sources.Page(url="page", rows=rows)

  def mined(page, low):
    config = inputs.make_config({}).unlock().mine
    config.update(similarity_low=-1.0, similarity_high=1.0)
    config.text_similarity_low = low
    (clusters, (fact,)) = mine.mine_pages(
      [page],
      config,
      size_px=16,
      scorer=scorer,
      match=mine.text_matcher(scorer),
    )
    return clusters, fact, decisions([fact], config)

  (cluster,), fact, lines = mined(page, 0.5)
  assert [tuple(x[0, 0]) for x in cluster.images] == [
    tuple(images[i][0, 0]) for i in (0, 1, 3)
  ]
  assert (fact["unlike_text"], fact["pictures"], fact["unused"]) == (1, 3, 0)
  assert lines[1] == (
    "page: 1 pictures are unlike their own texts, below"
    " config.mine.text_similarity_low=0.5, and are left out."
  )
  (cluster,), fact, lines = mined(page, None)
  assert (len(cluster.images), fact["unlike_text"], len(lines)) == (4, 0, 1)
  # What a person collected is left alone.
  chosen = dataclasses.replace(page, chosen=True)
  assert mined(chosen, 0.5)[1]["unlike_text"] == 0


def test_clip_sees_pictures_whole():
  """Not the square that is cut of them, and each where it belongs."""
  wide = [x.repeat(4, axis=1) for x in inputs.draw_pictures(1, 70)]
  seen = []

  def clip_images(batch):
    seen.extend(batch)
    return inputs.unit([[1.0, x[0, 0, 0]] for x in batch])

  scorer = dataclasses.replace(inputs.colour_scorer(), clip_images=clip_images)
  embed = Embedding(scorer)
  for image in [*wide, np.zeros((900, 1800, 3), np.uint8)]:
    embed.add(image)
  vectors = embed.all()
  assert len(vectors) == 71 and seen[0].shape == (16, 64, 3)
  assert seen[-1].shape == (448, 896, 3)  # but not larger than CLIP needs
  np.testing.assert_array_equal(seen[69], wide[69])
  expected = inputs.unit([[1.0, wide[69][0, 0, 0]]])[0]
  np.testing.assert_array_equal(vectors[69], expected)


def test_captions_are_the_nouns_or_descriptions_that_a_config_chooses(
  monkeypatch, tmp_path
):
  folder = tmp_path / "photos" / "brown_dog"
  folder.mkdir(parents=True)
  for number, image in enumerate(inputs.draw_pictures(1, 3, size_px=64)):
    Image.fromarray(image).save(folder / f"{number}.png")
  (folder / "0.txt").write_text("a dog in the snow")
  monkeypatch.setattr(mine, "load_scorer", lambda **_: inputs.colour_scorer())
  config = inputs.make_config({}).unlock()
  config.mine.update(source="folder", path=str(folder.parent))
  config.mine.captions = "descriptive"
  mine.run(config, tmp_path / "run")
  (cluster,) = read_clusters(tmp_path / "run")
  assert cluster.captions[:2] == (
    "a brown dog in the snow",
    "a brown dog",
  )
