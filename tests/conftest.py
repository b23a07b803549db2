"""Settings shared by all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# In CI every run tries the same examples: a red run is then about the change it tests. New examples
# are found where people work.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
