# SPDX-License-Identifier: Apache-2.0
"""Files that grow, where there are only whole ones.

A log gets a line at a time, and a bucket has no appending: there it grows in a
folder of this machine, and the whole of it is sent now and then. Who reads it
in between sees it as it last was.
"""

import os
import tempfile
import time
from pathlib import Path

from suti.io.paths import in_bucket, path_of, scratch


class Mirror:
  """A folder to write to, and the one that others see.

  Attributes:
    here: to write to, on this machine; the folder itself unless that is in a
      bucket.
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
    """Sends what has changed.

    Args:
      every_s: unless it was done so lately.
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
