"""Compiles the modules that `orchestrator.compiled` looks for, if there is a C compiler.

    python scripts/compile.py          quick when nothing has changed

Without a compiler the same modules run as they are: nothing is missing, requests take more of the
CPU. With CI set, not to have one is a failure.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from orchestrator import compiled

# Cython passes a typed method on as a bare function: a warning of the compiler's, and then a crash.
# What is left of the time goes into optimising, not into symbols for a debugger.
COMPILER = ["-O2", "-g0", "-Wno-maybe-uninitialized", "-Werror=incompatible-pointer-types"]
# A product and a sum in one instruction would round once where Python rounds twice.
COMPILER += ["-ffp-contract=off"]
# Folders of runs that were killed are older than any run takes.
LEFT_BEHIND_S = 600.0
# A None where an object is expected is an error, as it is in Python, not a crash.
DIRECTIVES = {"annotation_typing": False, "nonecheck": True, "embedsignature": False}


def main() -> int:
    made_of = compiled.made_of()
    target = compiled.FOLDER / made_of
    if target.is_dir():
        return 0
    if (missing := what_is_missing()) is not None:
        return give_up(missing)
    print("Compiling the scheduler (about half a minute)", file=sys.stderr)
    compiled.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=compiled.FOLDER) as folder:
        # In a process of its own: setuptools ends it as it likes, and says much on the way.
        ran = subprocess.run(
            [sys.executable, __file__, folder], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            said = "\n".join(re.findall("^(?!warning:).+", ran.stderr, re.MULTILINE)[:60])
            return give_up(f"compiling it failed.\n{said}")
        if made_of != compiled.made_of():
            return give_up("its sources changed meanwhile; do it again.")
        if target.is_dir():
            return 0  # another run was quicker
        for old in compiled.FOLDER.iterdir():
            if not old.name.startswith("tmp") or time.time() - old.stat().st_mtime > LEFT_BEHIND_S:
                shutil.rmtree(old)
        (Path(folder) / "built").rename(target)
    return 0


def what_is_missing() -> str | None:
    """Return what has to be installed first, found out without trying; None where all is there."""
    [compiler, *_] = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler} (Debian: apt-get install gcc; or set CC)"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return f"{header} is not there (Debian: apt-get install python3-dev)"
    return None


def give_up(why: str) -> int:
    """Say that nothing was compiled, and why; returns the exit status."""
    print(f"The scheduler runs uncompiled, and takes more of the CPU: {why}", file=sys.stderr)
    return 1 if os.environ.get("CI") else 0


def build(folder: Path) -> None:
    """Compile into ``folder/built``; raises or exits where that cannot be done."""
    from Cython.Build import cythonize  # noqa: PLC0415 — only where there is something to do
    from setuptools import Extension, setup  # noqa: PLC0415

    # Paths relative to the repository become the modules' names, and stand in tracebacks.
    os.chdir(compiled.REPOSITORY)
    names = [str(source.relative_to(compiled.REPOSITORY)) for source in compiled.sources()]
    jobs = os.cpu_count() or 1
    modules = cythonize(
        [Extension("*", [name], extra_compile_args=COMPILER) for name in names],
        nthreads=jobs,
        quiet=True,
        language_level=3,
        build_dir=str(folder / "c"),
        compiler_directives=DIRECTIVES,
    )
    paths = {"build_lib": str(folder / "built"), "build_temp": str(folder / "o")}
    setup(
        name="compiled",
        packages=[],
        py_modules=[],
        ext_modules=modules,
        options={"build_ext": {**paths, "parallel": jobs}},
        script_args=["--quiet", "build_ext"],
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        build(Path(sys.argv[1]))
    else:
        sys.exit(main())
