# SPDX-License-Identifier: Apache-2.0
"""Going through folders, links among them."""

import numpy as np
import pytest

from suti.images import save_png
from suti.io import folders
from suti.io.image_files import list_pictures, load_image
from suti.io.paths import path_of


def test_what_is_below_comes_by_name_and_hidden_folders_are_only_named(
  tmp_path,
):
  for name in ("b", "a/inner", ".git", "a/$RECYCLE.BIN"):
    (tmp_path / name).mkdir(parents=True)
  for name in ("2.jpg", "1.jpg", "a/inner/.x", ".git/config"):
    (tmp_path / name).write_bytes(b"")
  assert list(folders.walk(tmp_path)) == [
    (tmp_path, ["1.jpg", "2.jpg"], [".git"]),
    (tmp_path / "a", [], ["$RECYCLE.BIN"]),
    (tmp_path / "a" / "inner", [".x"], []),
    (tmp_path / "b", [], []),
  ]
  assert list(folders.walk(tmp_path / ".git")) == [
    (tmp_path / ".git", ["config"], [])
  ]


def test_links_are_followed_once(tmp_path):
  (tmp_path / "far").mkdir()
  (tmp_path / "here").mkdir()
  (tmp_path / "far" / "back").symlink_to(tmp_path / "here")
  (tmp_path / "here" / "far").symlink_to(tmp_path / "far")
  (tmp_path / "here" / "lost").symlink_to(tmp_path / "nowhere")
  (tmp_path / "here" / "self").symlink_to(tmp_path / "here" / "self")
  assert list(folders.walk(tmp_path / "here")) == [
    (tmp_path / "here", ["lost", "self"], []),
    (tmp_path / "here" / "far", [], []),
  ]


def test_a_bucket_is_walked_alike(buckets):
  place = path_of("gs://bucket/place")
  for name in ("2.jpg", "1.jpg", "a/inner/x", ".git/config", "a/@eaDir/y"):
    (place / name).write_bytes(b"")
  (path_of("gs://bucket/place2") / "z").write_bytes(b"")
  assert list(folders.walk(place)) == [
    (place, ["1.jpg", "2.jpg"], [".git"]),
    (place / "a", [], ["@eaDir"]),
    (place / "a" / "inner", ["x"], []),
  ]


def test_pictures_of_a_bucket_are_listed_and_read(buckets):
  place = path_of("gs://bucket/place")
  image_u8 = np.full((70, 80, 3), 9, np.uint8)
  save_png(place / "a.png", image_u8)
  save_png(place / "below" / "b.png", image_u8)
  (place / "c.txt").write_bytes(b"x")
  assert list_pictures(place) == (
    [place / "a.png"],
    {".txt": [place / "c.txt"]},
  )
  np.testing.assert_array_equal(load_image(place / "a.png"), image_u8)
  with pytest.raises(ValueError, match=r"place/d\.png does not exist"):
    load_image("gs://bucket/place/d.png")
