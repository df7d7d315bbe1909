# SPDX-License-Identifier: Apache-2.0
"""A small evaluation that several files look at."""

import pytest

from tests.commands import start
from tests.evaluation.benchmark_folders import (
  argv,
  link_encoders,
  write_pictures,
  write_subjects,
)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory, tiny_clip, tiny_identity):
  folder = tmp_path_factory.mktemp("encoders") / "encoders"
  return link_encoders(folder, clip=tiny_clip, identity=tiny_identity)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  write_subjects(folder / "subjects")
  write_pictures(folder / "pictures")
  return folder


@pytest.fixture(scope="session")
def scores(data, encoders):
  out = data / "scores"
  assert start(*argv(data, encoders, out)) == 0
  return out
