"""Files are absent or whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasm_build import files


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "file"
    files.write(path, b"old")

    def crash(self: Path, target: Path) -> Path:
        raise OSError("disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="disk is gone"):
            files.write(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_cut_off_copy_is_made_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_bytes(b"whole")
    target.parent.mkdir()
    target.write_bytes(b"who")

    files.place(source, target)

    assert target.read_bytes() == b"whole"


def test_hashes_of_bytes_and_of_their_file_agree(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    assert files.sha256_of(path) == files.sha256(path.read_bytes())
