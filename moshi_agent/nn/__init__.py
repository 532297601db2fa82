"""Building blocks: modules hold weights, streaming state is passed in."""
