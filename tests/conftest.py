# SPDX-License-Identifier: Apache-2.0
"""How every test runs: on eight emulated devices, strictly, and repeatably.

Set before jax starts: CPU only, eight devices. Then: no implicit dtype
promotion, products in full precision, NumPy's global generator seeded before
each test. Warnings are errors (pyproject.toml names the exceptions). No test
may open a network connection.
"""

import atexit
import gc
import os
import shutil
import tempfile

from tests import compiler

# Before anything imports jax: the backend reads these once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    compiler.FLAGS,
  ]
).strip()
os.environ["HF_HUB_OFFLINE"] = "1"
# What a process has compiled, it and those that it starts find again. Workers
# have a folder each, as JAX's files do not appear whole.
if "SUTI_TESTS_COMPILED" not in os.environ:
  os.environ["SUTI_TESTS_COMPILED"] = tempfile.mkdtemp(prefix="suti-tests-")
  atexit.register(
    shutil.rmtree, os.environ["SUTI_TESTS_COMPILED"], ignore_errors=True
  )
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(
  os.environ["SUTI_TESTS_COMPILED"],
  os.environ.get("PYTEST_XDIST_WORKER", "all"),
)
os.environ.update(compiler.KEEP_ALL)

import pathlib
import random
import socket

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")

ROOT = pathlib.Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
  """Puts first what shares most: it stays with one worker of pytest-xdist.

  `--dist worksteal` begins with equal parts of the list, and takes from its
  end what is left when a worker has nothing to do.
  """
  rooms = ("tests/experts/", "tests/world/")
  items.sort(key=lambda item: not item.nodeid.startswith(rooms))


def pytest_collection_finish():
  """Spares the collector what is imported: a fifth of the time of tracing."""
  gc.freeze()


@pytest.fixture(autouse=True)
def _repeatable():
  """Seeds the global generators, for code that is not ours and uses them."""
  random.seed(0)
  np.random.seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
  """Refuses to connect anywhere; local sockets of the machine still work."""
  connect = socket.socket.connect

  def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] not in (
      "127.0.0.1",
      "::1",
      "localhost",
    ):
      raise AssertionError(f"A test opened a network connection: {address}.")
    return connect(self, address)

  monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
  """The checkout."""
  return ROOT


@pytest.fixture(scope="session")
def _bucket_server():
  """Buckets on this machine; see tests/io/bucket_server.py."""
  from tests.io import bucket_server

  with bucket_server.serve() as buckets:
    yield buckets


@pytest.fixture
def buckets(_bucket_server, monkeypatch):
  """A server of an empty bucket, which this process and its children ask."""
  for name, value in _bucket_server.environment.items():
    monkeypatch.setenv(name, value)
  _bucket_server.objects.clear()
  _bucket_server.requests.clear()
  yield _bucket_server
  _bucket_server.let()


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
  """A folder on a disk, then one in a bucket."""
  if request.param == "disk":
    return tmp_path / "place"
  from suti.io.paths import path_of

  request.getfixturevalue("buckets")
  return path_of("gs://bucket/place")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> pathlib.Path:
  """A random tiny backbone in the published layout; see tests/tiny.py."""
  from tests import tiny

  folder = tmp_path_factory.mktemp("backbone")
  return tiny.write_backbone(folder, unet=tiny.ONE_LEVEL_UNET)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> pathlib.Path:
  """A random tiny CLIP in the published layout; see tests/tiny.py."""
  from tests import tiny

  return tiny.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_identity(tmp_path_factory) -> pathlib.Path:
  """A random tiny identity encoder in the published layout."""
  from tests import tiny

  return tiny.write_encoder(tmp_path_factory.mktemp("identity"))
