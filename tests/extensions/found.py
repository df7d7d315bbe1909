# SPDX-License-Identifier: Apache-2.0
"""Lets a method and a teacher of the tests be found like those of the project.

Each is one file and one config here; nothing else of the project knows them.
`python -m tests.extensions.found ARGUMENTS` is `suti ARGUMENTS` with them.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import apprentice.methods
import experts.teachers

HERE = pathlib.Path(__file__).parent
METHOD, TEACHER = "masked", "trio"


@contextlib.contextmanager
def extended() -> Iterator[None]:
  """While it is open, their names are those of files."""
  packages = {"methods": apprentice.methods, "teachers": experts.teachers}
  for folder, package in packages.items():
    package.__path__.append(str(HERE / folder))
  try:
    yield
  finally:
    for package in packages.values():
      package.__path__.pop()


if __name__ == "__main__":
  import suti.cli

  with extended():
    suti.cli.main(sys.argv[1:])
