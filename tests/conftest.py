"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# The time of a single example says nothing on a machine that runs other things.
settings.register_profile("moshi-agent", deadline=None, print_blob=True)
settings.load_profile("moshi-agent")
