"""The server: the public API, the console, and what hands jobs to volunteers."""

from orchestrator import compiled

__path__ = compiled.before(__path__, __name__)
