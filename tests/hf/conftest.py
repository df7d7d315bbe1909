# SPDX-License-Identifier: Apache-2.0
"""A hub on this machine, of the repository that a test publishes."""

import pytest
from huggingface_hub import constants

from tests.hf import hub_server


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
  """The hub that the client knows, with an empty cache."""
  with hub_server.serve(published) as running:
    template = "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (
      ("ENDPOINT", running.url),
      ("HUGGINGFACE_CO_URL_TEMPLATE", running.url + template),
      ("HF_HUB_CACHE", str(tmp_path / "hub")),
      ("HF_HUB_OFFLINE", False),
    ):
      monkeypatch.setattr(constants, name, value)
    yield running
