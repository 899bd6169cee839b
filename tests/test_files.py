"""Files that are whole or not there, whatever is at their path; and what killed writers leave."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mnistgen.errors import MnistgenError
from mnistgen.files import atomic_file, atomic_folder, clear_leftovers, temporary_file, temporary_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, links, pipes and locks of POSIX")


def write(path: Path, text: str = "new") -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)


@posix
def test_the_mode_of_a_file_is_kept_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    path, new = tmp_path / "private.json", tmp_path / "new.json"
    path.write_text("old")
    path.chmod(0o640)
    write(path)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        write(new)
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


@posix
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):  # a link to nothing, and one to a file
        write(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path / "real")
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("a")
    assert folder.is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "a"
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(MnistgenError, match="circle: cannot be written"):
        write(circle)


@posix
def test_pipes_and_devices_are_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "through")
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    write(Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)  # noqa: PTH116
    if Path("/dev/full").exists():
        with pytest.raises(MnistgenError, match=r"/dev/full: cannot be written: No space left on device\."):
            write(Path("/dev/full"))


@posix
def test_standard_output_gets_it_between_what_is_printed(tmp_path: Path) -> None:
    script = "from pathlib import Path\nfrom mnistgen.files import atomic_file\nprint('a')\n"
    script += "with atomic_file(Path('/dev/stdout')) as t:\n    t.write_text('b\\n')\nprint('c')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], check=True, stdout=out)
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MnistgenError, match=r"because it is a folder\. Give the path of a file"):
        write(tmp_path)
    for name in ("x" * 300, "\ud800.json"):
        with pytest.raises(MnistgenError, match="cannot be written"):
            write(tmp_path / name)
        with pytest.raises(MnistgenError, match="cannot be written"), atomic_folder(tmp_path / name):
            pass
    write(tmp_path / ("y" * 250 + ".json"))  # as long as a name can be: there is no room for more in it
    (tmp_path / "file").write_text("")
    with pytest.raises(MnistgenError, match="cannot be written"):
        write(tmp_path / "file" / "below")
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["f", "y"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(MnistgenError, match="kept: cannot be written: Permission denied"):
        write(path)
    assert path.read_text() == "old"


def test_a_block_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@posix
@pytest.mark.parametrize("what", ["temporary_file", "temporary_folder"])
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path, what: str) -> None:
    script = f"import os, signal\nfrom pathlib import Path\nfrom mnistgen.files import {what}\n"
    script += f"with {what}(Path('.')):\n    os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".mnistgen-")
    for name in (".notes.tmp", ".env.tmpl", ".model.safetensors.abc12345.tmp", ".mnistgen-mine", ".mnistgen-abcdefgh"):
        (tmp_path / name).write_text("the user's")
    (tmp_path / ".mnistgen-linked__.tmp").symlink_to(tmp_path / ".notes.tmp")
    kept = {path.name for path in tmp_path.iterdir()} - {left.name}
    with temporary_file(tmp_path) as living, temporary_folder(tmp_path) as other:
        assert not left.exists()  # the next write has removed it
        clear_leftovers(tmp_path)
        assert living.is_file()
        assert other.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == kept
    clear_leftovers(tmp_path / "nowhere")
