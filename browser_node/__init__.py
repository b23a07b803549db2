"""The node: one package that runs models in a browser tab, on a volunteer's machine and in the CPU worker."""

__version__ = "0.1.0"
