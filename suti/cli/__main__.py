# SPDX-License-Identifier: Apache-2.0
"""`python -m suti.cli` is `suti`."""

from suti.cli import main

if __name__ == "__main__":
  main()
