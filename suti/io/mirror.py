# SPDX-License-Identifier: Apache-2.0
"""Append-only logs on object storage.

A log grows by a line at a time, but objects in a bucket cannot be appended to:
there it grows in a local folder, and the whole file is uploaded periodically.
Readers see the last upload.
"""

import os
import tempfile
import time
from pathlib import Path

from suti.io.paths import in_bucket, path_of, scratch


class Mirror:
  """A local folder to write to, and the folder that it is uploaded to.

  Attributes:
    here: the folder to write to, on this machine; the folder itself unless that
      is in a bucket.
  """

  def __init__(self, folder: str | os.PathLike) -> None:
    self._there = path_of(folder)
    self._away = in_bucket(self._there)
    self.here = self._there
    if self._away:
      self.here = Path(tempfile.mkdtemp(dir=scratch(os.getpid())))
    self._sent: dict[Path, tuple[int, int]] = {}  # size and time of each
    self._sent_s = time.monotonic()

  def send(self, *, every_s: float = 0.0) -> None:
    """Uploads the files that have changed.

    Args:
      every_s: only if the last time is at least this long ago.
    """
    if not self._away or time.monotonic() < self._sent_s + every_s:
      return
    for path in sorted(self.here.rglob("*")):
      if not path.is_file():
        continue
      status = path.stat()
      state = (status.st_size, status.st_mtime_ns)
      if self._sent.get(path) != state:
        target = self._there / path.relative_to(self.here)
        assert in_bucket(target), target
        target.upload(path)
        self._sent[path] = state
    self._sent_s = time.monotonic()
