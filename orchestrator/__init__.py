"""The server: the public API, the console, and what hands jobs to volunteers."""

from orchestrator import compiled

compiled.install()
