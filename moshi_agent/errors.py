"""What can go wrong, as types.

    MoshiAgentError
    ├── ConfigError            a configuration that no model can be built from
    ├── CheckpointError        weights that are missing, damaged or of the wrong shape
    ├── AudioError             a file or array that is no usable audio
    ├── DataError              training data that is missing, malformed or contradicts itself
    ├── InputError             a tensor of the wrong shape, type or range
    │   └── BacklogFull        input that comes faster than it is taken
    ├── OutputError            a place that cannot be written to
    ├── EngineFull             no room for one more conversation
    │   └── DeviceFull         no memory left on the device for what was asked
    ├── EngineUnhealthy        an engine that has failed, or is closed
    └── SessionClosed          a call on a conversation that is over

Every message says what was wrong and what is accepted. Those that answer to a built-in type
are one as well, so that code written for the built-in type keeps working.
"""

from __future__ import annotations


class MoshiAgentError(Exception):
    """The base of every error that this package raises on purpose."""


class ConfigError(MoshiAgentError, ValueError):
    """A configuration has an unknown key, or values that do not fit together."""


class CheckpointError(MoshiAgentError):
    """A checkpoint is missing, truncated, or does not hold the tensors its configuration asks for."""


class AudioError(MoshiAgentError, ValueError):
    """A file or an array is not audio that can be used."""


class DataError(MoshiAgentError, ValueError):
    """Training data is missing, malformed, or contradicts itself."""


class InputError(MoshiAgentError, ValueError):
    """A tensor given to the model has the wrong shape, type or range."""


class OutputError(MoshiAgentError, OSError):
    """A result cannot be written where it was asked to go."""


class BacklogFull(InputError):
    """More input waits than a conversation may hold; the input given with this call was not taken."""


class EngineFull(MoshiAgentError):
    """The engine has no row, or no time in its step, for one more conversation."""


class DeviceFull(EngineFull):
    """The device has no memory left for what was asked; whatever else it serves goes on."""


class EngineUnhealthy(MoshiAgentError):
    """The engine has failed or is closed, and takes no conversation: for now, or any more."""


class SessionClosed(MoshiAgentError):
    """The conversation is over: it takes no input and gives no output any more."""
