"""Storage: database and migrations, keys, console sessions, request log, model catalogue."""

from orchestrator import compiled

__path__ = compiled.before(__path__, __name__)
