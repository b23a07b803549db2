"""Compiles the modules that `orchestrator.compiled` looks for, if there is a C compiler.

    python scripts/compile.py          quick when nothing has changed

Without a compiler the same modules run as they are: nothing is missing, requests take more of the
CPU. With CI set, not to have one is a failure. ``ZEROGPU_COMPILED=0`` compiles nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# This checkout's, wherever the virtual environment may have been made.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator import compiled

# Cython passes a typed method on as a bare function: a warning of the compiler's, and then a crash.
# What is left of the time goes into optimising, not into symbols for a debugger. A product and a
# sum in one instruction would round once where Python rounds twice.
COMPILER = [
    "-O2",
    "-g0",
    "-ffp-contract=off",
    "-Wno-maybe-uninitialized",
    "-Werror=incompatible-pointer-types",
]
# A None where an object is expected is an error, as it is in Python, not a crash.
DIRECTIVES = {"annotation_typing": False, "nonecheck": True, "embedsignature": False}
# So many are kept: who goes from branch to branch need not wait each time.
FOLDERS_KEPT = 3
LINES_SHOWN = 40


def main() -> int:
    if os.environ.get(compiled.SWITCH) == "0":
        return 0
    made_of = compiled.made_of()
    target = compiled.FOLDER / made_of
    if target.is_dir():
        return 0
    try:
        missing = what_is_missing()
        if missing is not None:
            return give_up(missing)
        compiled.FOLDER.mkdir(parents=True, exist_ok=True)
        with (compiled.FOLDER / ".lock").open("w") as lock:
            # A second run waits, and then finds everything done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            return 0 if target.is_dir() else compile_into(target, made_of)
    except (OSError, ValueError) as error:
        return give_up(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def compile_into(target: Path, made_of: str) -> int:
    """Compile what is ``made_of`` into ``target``; returns the exit status."""
    failed, compiler = target.with_suffix(".failed"), " ".join(c_compiler())
    if failed.exists() and failed.read_text() == compiler and not os.environ.get("CI"):
        return give_up(f"compiling it failed here before; to try again, remove {failed}")
    # Whoever left one behind was killed: we hold the lock.
    for left in compiled.FOLDER.glob("tmp*"):
        shutil.rmtree(left, ignore_errors=True)
    print("Compiling what every request passes (about a minute)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=compiled.FOLDER) as folder:
        status, said = run_apart([sys.executable, __file__, folder])
        if status:
            failed.write_text(compiler)
            # Warnings before, and how we came there behind it, say nothing.
            lines = re.findall("^(?!warning:).+", said.partition("\nTraceback")[0], re.MULTILINE)
            return give_up("\n".join(["compiling it failed.", *lines[-LINES_SHOWN:]]))
        if made_of != compiled.made_of():
            return give_up("its sources changed meanwhile; do it again")
        (Path(folder) / "built").rename(target)
    folders = [path for path in compiled.FOLDER.iterdir() if path.is_dir() and path != target]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in folders[FOLDERS_KEPT - 1 :]:
        shutil.rmtree(old)
    return 0


def run_apart(command: list[str]) -> tuple[int, str]:
    """Run a command that has processes of its own, none of which outlives this.

    Returns its exit status and what it said. setuptools ends its process as it likes, and Cython's
    do not end when a terminal says so.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate()
        return process.returncode, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def c_compiler() -> list[str]:
    """Return the words of the C compiler's command; raises `ValueError` for what is none."""
    words = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not words:
        raise ValueError("CC is set, and names no compiler")
    return words


def what_is_missing() -> str | None:
    """Return what has to be installed first, found out without trying; None where all is there."""
    compiler = c_compiler()[0]
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
