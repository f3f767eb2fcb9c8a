"""Atomic writes of files and folders: complete and on the disk, or not there at all.

A write is: a temporary file next to the target, its content, owner and mode, fsync, rename, fsync of the folder.
An interruption before the rename, such as a power cut, leaves the old file; a later one leaves the new file. The
leftovers of a killed writer are removed by the next write of the same file.

Not for logs, which grow, and not for scratch files in a temporary folder that no other process reads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

PARKED = ".replaced-"
"""Prefix of a folder that is parked while another replaces it, where the file system cannot swap the two."""
_TEMPORARY = ".tmp"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})
"""Errors of fsync of a folder where it is not supported; the rename itself was done."""


def write_atomically(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replaces the file at `path` in one step: a reader sees the old or the new one, never a part.

    Text is written as UTF-8, bytes of file names that are not UTF-8 as ``\\udc..``. Raises OSError, with the old file
    untouched, when the disk is full or not writable.
    """
    with replacing(path, mode) as file:
        file.write(_encoded(content))


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write that replaces `path` when the block ends, and is removed when the block raises.

    As root, it gets the owner of the file it replaces, or of the folder. A symbolic link is replaced, not followed.
    Raises OSError.
    """
    with _temporary(path, mode) as (file, name):
        yield file
        _make_durable(file)
        os.replace(name, path)
    sync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Writes a file that must not replace another: False, with nothing changed, when there is one. Raises OSError."""
    with _temporary(path, mode) as (file, name):
        file.write(content)
        _make_durable(file)
        try:
            os.link(name, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(name)
    sync_folder(path.parent)
    return True


def write_output(path: Path, content: str | bytes) -> None:
    """Writes an operator's output file: through a symbolic link, with its present mode or the umask's.

    A target that is not a regular file (a pipe, ``/dev/stdout``) is written to directly. Raises OSError.
    """
    data = _encoded(content)
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        os.umask(umask := os.umask(0))
        found = stat.S_IFREG | 0o666 & ~umask
    if stat.S_ISREG(found):
        write_atomically(path.resolve(), data, stat.S_IMODE(found))
    else:
        path.write_bytes(data)


def check_output(path: Path) -> None:
    """Raises OSError when `write_output` could not write `path`: to call before work whose result it will hold.

    Free space is not checked.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        is_file = True
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if is_file:  # it is replaced, so only its folder matters
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    elif not os.access(path, os.W_OK):  # not opened: the reader of a pipe would take the close for the end
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def copy_atomically(source: Path, path: Path, mode: int = 0o644) -> None:
    """Copies a file of any size to `path` as `write_atomically` writes one. Raises OSError."""
    with source.open("rb") as given, replacing(path, mode) as file:
        shutil.copyfileobj(given, file, 1 << 20)


def move_into_place(made: Path, path: Path) -> None:
    """Renames the finished file `made` to `path`, on the same file system, once it is on the disk. Raises OSError."""
    _sync(made)
    made.replace(path)
    for folder in {made.parent, path.parent}:
        sync_folder(folder)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two files or folders in one step; False, with nothing changed, where the file system cannot.

    Raises OSError for any other failure. ext4, XFS, Btrfs, tmpfs and f2fs can; NFS and older ZFS cannot.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def put_folder(made: Path, path: Path, swap: Callable[[Path, Path], bool] = exchange) -> None:
    """Puts the finished folder `made` at `path`, on the same file system; the folder it replaces is then at `made`.

    Where `swap` cannot exchange them, the old one is parked next to `path` meanwhile: after a kill in between,
    `recover_parked` puts it back. One process at a time; hold a lock. Raises OSError, with the old folder in place.
    """
    sync_tree(made)
    if not os.path.lexists(path):
        made.rename(path)
    elif not swap(made, path):
        _replace_by_parking(made, path)
    for folder in {made.parent, path.parent}:
        sync_folder(folder)


def open_lock(path: Path) -> BinaryIO:
    """A file to lock, made if it is missing. Raises OSError.

    Not with O_CREAT where it exists: in a sticky folder the kernel refuses that, even to root, for another user's file.
    """
    try:
        return path.open("r+b")
    except FileNotFoundError:
        return path.open("w+b")


def recover_parked(directory: Path, lock: Path) -> None:
    """Puts back folders in `directory` that a killed `put_folder` parked; removes those whose replacement is in place.

    Does nothing when another process holds `lock` and recovers them, or when we may not write here.
    """
    if not (parked := sorted(directory.glob(f"{PARKED}*"))):
        return
    with suppress(OSError), lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        settle_parked(parked)


def settle_parked(parked: list[Path]) -> None:
    """As `recover_parked`, for the holder of the lock. Raises OSError."""
    for folder in parked:
        path = folder.with_name(folder.name.removeprefix(PARKED))
        if os.path.lexists(path):
            shutil.rmtree(folder)
        else:
            folder.rename(path)
            sync_folder(path.parent)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """The size of all files in a folder and in those below it. Raises OSError."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def link_files(folder: Path, into: Path, *, without: Container[str]) -> None:
    """Links to everything in `folder` except names in `without`, in the folder `into`. Raises OSError."""
    for path in folder.iterdir():
        if path.name not in without:
            (into / path.name).symlink_to(path.resolve())


def sync_tree(directory: Path) -> None:
    """Makes sure that a folder and its contents are on the disk. Symbolic links are not followed. Raises OSError."""
    for folder, _, names in os.walk(directory):
        for name in names:
            if not (path := Path(folder, name)).is_symlink():
                _sync(path)
        sync_folder(Path(folder))


def sync_folder(directory: Path) -> None:
    """Makes sure that the names in a folder are on the disk. Raises OSError."""
    try:
        _sync(directory)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


# --- steps ------------------------------------------------------------------------------------------------------------


@contextmanager
def _temporary(path: Path, mode: int) -> Iterator[tuple[BinaryIO, str]]:
    """A new file next to `path`, locked while it is written, and its name; removed when the block raises."""
    _remove_left(path)
    file, name = _create(path)
    try:
        with file:
            _set_owner(file, path)
            os.fchmod(file.fileno(), mode)
            yield file, name
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _encoded(content: str | bytes) -> bytes:
    return content.encode(errors="backslashreplace") if isinstance(content, str) else content


def _create(path: Path) -> tuple[BinaryIO, str]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
        file = os.fdopen(descriptor, "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return file, name
        file.close()  # another writer removed it as a leftover, before we had the lock


def _remove_left(path: Path) -> None:
    """Removes leftovers of killed writers of `path`: files that no process has locked."""
    prefix = f".{path.name}."
    with suppress(OSError), os.scandir(path.parent) as entries:
        left = [one.path for one in entries if one.name.startswith(prefix) and one.name.endswith(_TEMPORARY)]
        for name in left:
            with suppress(OSError), open(name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name)


def _set_owner(file: BinaryIO, path: Path) -> None:
    if os.geteuid() != 0:
        return
    owner = path.lstat() if os.path.lexists(path) else path.parent.stat()
    with suppress(PermissionError):  # not every file system lets root do it
        os.fchown(file.fileno(), owner.st_uid, owner.st_gid)


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _replace_by_parking(made: Path, path: Path) -> None:
    parked = path.with_name(PARKED + path.name)
    if parked.exists():
        shutil.rmtree(parked)
    try:
        path.rename(parked)
        made.rename(path)
    except BaseException:  # from SIGTERM too
        if not os.path.lexists(path):
            parked.rename(path)
        raise
    parked.rename(made)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
