"""The node: one package for browser tabs, volunteers' machines and the server's CPU worker."""

__version__ = "0.1.0"
