"""Prints which process holds one of apt's locks, by name and number; nothing where none does. Needs root."""

import fcntl
import struct
import sys

LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock")
FLOCK = "hhqqi4x"  # struct flock on x86-64: type, whence, start, length, process

for path in sys.argv[1:] or LOCKS:
    try:
        with open(path, "rb") as file:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, process = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            continue
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            sys.stdout.write(f"{file.read().strip()} (process {process})\n")
        break
    except OSError:  # no such lock file yet, or the process has just ended
        continue
