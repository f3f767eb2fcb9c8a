"""Records a host's state before a role changes it: a JSON file per role, in a folder readable by root only."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: omron_host_record
short_description: Reads, writes and removes the record of what a host was like before
description:
  - A record is written before the first change, so that an undo works from any half-done state.
  - What was recorded first stays. Lists and mappings get what a later run adds; any other value never changes.
options:
  path:
    description: The record, a .json file. Its folder is made if it is missing, readable by root only.
    type: path
    required: true
  state:
    description: Whether to read the record, to write it or to remove it (with its backup).
    type: str
    choices: [read, present, absent]
    default: read
  content:
    description: What to record. Required to write.
    type: dict
  once:
    description: Leave a record that exists as it is.
    type: bool
    default: false
  backup:
    description: A file of the host to copy next to the record when it is first written, if the file exists.
    type: path
author: omron-miner
"""

EXAMPLES = r"""
- name: Record the original state
  omron_host_record:
    path: /var/lib/omron-miner/host-record/swap.json
    state: present
    content: {masked_units: [swap.target]}
    backup: /etc/fstab
"""

RETURN = r"""
exists:
  description: Whether there is a record.
  type: bool
  returned: always
record:
  description: Its content after this task; empty without a record.
  type: dict
  returned: always
"""


def merged(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """`earlier` with what `later` adds: new keys, new entries of its lists and of its mappings."""
    result = {**later, **earlier}
    for key, value in later.items():
        known = earlier.get(key)
        if isinstance(known, list) and isinstance(value, list):
            result[key] = [*known, *(entry for entry in value if entry not in known)]
        elif isinstance(known, dict) and isinstance(value, dict):
            result[key] = {**value, **known}
    return result


def read(path: str) -> dict[str, Any] | None:
    """The record; None without one. Raises ValueError for a file that holds no record."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def make_parents(directory: str) -> None:
    """Creates a folder and its missing parents, readable for everybody."""
    if os.path.isdir(directory):
        return
    make_parents(os.path.dirname(directory))
    umask = os.umask(0o022)
    try:
        os.mkdir(directory, 0o755)
    finally:
        os.umask(umask)


def make_folder(directory: str) -> None:
    """Creates the folder of the records, for root only, in a state folder that the service user can enter."""
    make_parents(os.path.dirname(directory))
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        found = os.lstat(directory)  # the service user may add to the folder above it
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{directory} is not owned by root: check who created it, then remove it") from None


def write(path: str, text: str) -> None:
    """Writes `text` atomically, readable for root only."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".record-")  # 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def backup_of(path: str, file: str) -> str:
    """The path of the copy of `file` that belongs to the record `path`."""
    name = os.path.splitext(os.path.basename(path))[0]
    return os.path.join(os.path.dirname(path), f"{os.path.basename(file)}-before-{name}")


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["read", "present", "absent"], "default": "read"},
            "content": {"type": "dict"},
            "once": {"type": "bool", "default": False},
            "backup": {"type": "path"},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    path, state, backup = module.params["path"], module.params["state"], module.params["backup"]
    try:
        earlier = read(path)
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=f"the record {path} cannot be read ({error}): restore it from a backup of the host, or move "
            "it away if you no longer need to undo what it holds"
        )
    now = earlier
    if state == "present" and (earlier is None or not module.params["once"]):
        now = merged(earlier or {}, module.params["content"])
    elif state == "absent":
        now = None
    changed = now != earlier
    if changed and not module.check_mode:
        if now is None:
            for file in (path, *([backup_of(path, backup)] if backup else [])):
                if os.path.exists(file):
                    os.unlink(file)
        else:
            try:
                make_folder(os.path.dirname(path))
            except PermissionError as error:
                module.fail_json(msg=f"nothing was recorded: {error}")
            if backup and earlier is None and os.path.isfile(backup):
                with open(backup, encoding="utf-8", errors="surrogateescape") as file:
                    write(backup_of(path, backup), file.read())
            write(path, text(now))
    module.exit_json(
        changed=changed,
        exists=now is not None,
        record=now or {},
        diff={"before": text(earlier), "after": text(now), "before_header": path, "after_header": path},
    )


def text(record: dict[str, Any] | None) -> str:
    """As it is written."""
    return "" if record is None else json.dumps(record, indent=4, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
