"""The scheduler and what it knows: pure state machines that never wait, read a clock or do I/O."""

from orchestrator import compiled

__path__ = compiled.before(__path__, __name__)
