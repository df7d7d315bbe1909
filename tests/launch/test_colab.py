# SPDX-License-Identifier: Apache-2.0
"""Notebooks as they are stored; `.ci/run all` executes them."""

import ast
import pathlib

import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "launch" / "colab").glob("*.ipynb"))


def test_there_is_one():
  assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_what_it_printed(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  for cell in code:
    assert cell.outputs == [] and cell.execution_count is None, cell.source
    ast.parse(cell.source)
  assert code[0].source.startswith("# SPDX-License-Identifier: Apache-2.0\n")
  # The least of everything is what happens if nothing is chosen.
  assert 'SIZE = "tiny"' in code[0].source
  assert path.name in (ROOT / ".ci" / "run").read_text()
