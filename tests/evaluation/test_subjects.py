# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as folders: what makes one, and what it lacks."""

import shutil

import pytest

from suti.evaluation import dreambench
from suti.evaluation.benchmark.subjects import read_dreambench, read_folder
from suti.images import save_png
from tests.evaluation.benchmark_folders import picture, write_subjects


@pytest.fixture
def data(tmp_path):
  write_subjects(tmp_path / "subjects")
  return tmp_path


def test_a_copy_of_a_benchmark_is_the_same_one(data, tmp_path):
  shutil.copytree(data / "subjects", tmp_path / "copy")
  key = read_folder(data / "subjects").key()
  assert read_folder(tmp_path / "copy").key() == key
  save_png(tmp_path / "copy" / "dog" / "09.png", picture(5))
  assert read_folder(tmp_path / "copy").key() != key


def test_dreambench_names_what_is_missing(tmp_path):
  for name in dreambench.SUBJECTS:
    if name != "vase":
      save_png(tmp_path / name / "00.jpg", picture(1))
  found = read_dreambench(tmp_path)
  assert len(found.subjects) == 29
  assert "lacks 1 of DreamBench's 30 subjects: vase" in found.notes[0]
  assert len(found.subjects["dog"].prompts) == 25
  with pytest.raises(ValueError, match=r"none of DreamBench's 30 subjects"):
    read_dreambench(tmp_path / "dog")


def test_the_single_references_are_one_a_subject():
  assert set(dreambench.SINGLE_REFERENCES) == set(dreambench.SUBJECTS)
