"""Lock and compile the wheels in /wheels, with the Pyodide project's own tools.

pyodide-lock describes them in pyodide-lock.json, so that the browser asks no index and no CDN;
pyodide-build compiles their sources to .pyc and corrects the lock. Both want Python 3.12 or newer,
and pyodide-build compiles for the Python it runs on: hence inside Pyodide and not on the host.

What they cannot do offline, and why it is not done here:

- ``pyodide build`` and ``pyodide venv`` first fetch the cross-build environment's index from a web
  host and need Emscripten 5.0.3, which no package index carries. Nothing of ours is written in C;
  the wheels that are (msgpack, msgspec) are on PyPI already compiled for Pyodide.
- ``pyodide py-compile`` and ``pyodide lockfile add-wheels`` are command lines over the functions
  called here; the command lines themselves want a terminal library and programs of the host.
"""

import json
import zipfile
from pathlib import Path

# Private, but the one function behind the py-compile command; its version is pinned.
from pyodide_build._py_compile import _py_compile_archive_dir
from pyodide_lock import InfoSpec, PyodideLockSpec
from pyodide_lock.utils import add_wheels_to_spec, update_package_sha256

WHEELS = Path("/wheels")
LOCK = WHEELS / "pyodide-lock.json"
EPOCH = (1980, 1, 1, 0, 0, 0)


def write_lock(info: dict[str, str]) -> None:
    """Describe the wheels. pyodide-lock 0.2.1 compares their tag with the platform's older name."""
    tagged = InfoSpec.from_dict({**info, "platform": f"pyemscripten_{info['abi_version']}"})
    spec = add_wheels_to_spec(
        PyodideLockSpec(info=tagged, packages={}), sorted(WHEELS.glob("*.whl")), base_path=WHEELS
    )
    spec.info = InfoSpec.from_dict(info)
    spec.check_wheel_filenames()
    spec.to_json(LOCK, indent=1)


def settle(wheel: Path) -> None:
    """Rewrite a wheel with fixed dates and order: the same sources give the same bytes and URL.

    Stored, not deflated: brotli on the way does better on the whole, and unpacking is faster.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in sorted(archive.namelist())}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content)


def main() -> None:
    published = json.loads(Path("/pyodide/pyodide-lock.json").read_text())
    write_lock(published["info"])
    _py_compile_archive_dir(WHEELS, keep=False, verbose=False)
    spec = PyodideLockSpec.from_json(LOCK)
    for package in spec.packages.values():
        wheel = WHEELS / package.file_name
        settle(wheel)
        update_package_sha256(package, wheel)
    spec.to_json(LOCK, indent=1)


main()
