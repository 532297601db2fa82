"""To which replica a caller goes."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import FIFOMixin, RequestRouter


class Emptiest(FIFOMixin, RequestRouter):
    """Chooses the replica with the fewest calls and requests of all.

    Serve's own router takes the emptier one of two at random: where most are full, so may these two be, and a
    caller would be refused for whom another replica has a place.
    """

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Returns all replicas as equally good: of these Serve takes the one with the shortest queue."""
        return [random.sample(candidate_replicas, len(candidate_replicas))]
