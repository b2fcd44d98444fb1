"""A run on disk: what was asked for, and every answer and score as it came, so that nothing is lost or done twice."""

import json
import os
import platform
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from langchain_amulet.exceptions import RunError

_PACKAGES = ("langchain-amulet", "torch", "transformers", "langchain-core", "numpy")
_MANIFEST = "manifest.json"


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of the folder of a run, which is made if it is not there.

    Raises:
        RunError: Another is at work in it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(folder).resolve() / ".lock", timeout=0, is_singleton=True):  # may be held more than once
            yield
    except Timeout as error:
        msg = f"Another process is at work in {folder}. Wait for its end, or use another folder."
        raise RunError(msg) from error


class Run:
    """A folder with a manifest and append-only JSONL files.

    Args:
        folder: Made if it is not there; a run that was interrupted goes on in it.
        config: What determines the answers, as JSON. A folder belongs to one config.

    Raises:
        RunError: The folder holds a run of another config, or a file of it is damaged before its last line.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest = self._begin(json.loads(json.dumps(config)))

    def records(self, name: str) -> "JsonlRecords":
        """One of the files, such as `"answers"`."""
        return JsonlRecords(self.folder / f"{name}.jsonl")

    def _begin(self, config: Any) -> dict[str, Any]:
        path = self.folder / _MANIFEST
        manifest = self._read_manifest(path) or {"config": config, "environments": []}
        if changed := sorted(_differences(manifest["config"], config)):
            msg = (
                f"{self.folder} holds a run with another {', '.join(changed)}. Give this one a folder of its own, or "
                f"delete that one."
            )
            raise RunError(msg)
        if (here := environment()) not in manifest["environments"]:
            manifest["environments"].append(here)
            _write_atomically(path, json.dumps(manifest, indent=2) + "\n")
        return manifest

    def _read_manifest(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            if next(self.folder.glob("*.jsonl"), None) is not None:
                msg = f"{self.folder} holds answers but no {_MANIFEST}. Give this evaluation a folder of its own."
                raise RunError(msg)
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            msg = f"{path} is damaged. Restore it, or give this evaluation a folder of its own."
            raise RunError(msg) from error


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class JsonlRecords:
    """One object per line, each with a `key` of its own.

    A line that was cut off when the program was killed is dropped; what it held is done again.

    Raises:
        RunError: A line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._found = self._read()

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([*self._found.values()])

    def __len__(self) -> int:
        return len(self._found)

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep one, on disk before this returns; a key that is there already stays as it is."""
        line = json.dumps(record, allow_nan=False) + "\n"  # ASCII: some characters would end the line
        with self._lock:
            if record["key"] in self._found:
                return
            with self._path.open("a", encoding="ascii") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._found[record["key"]] = dict(record)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        found: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                found.setdefault(record["key"], record)
            except (ValueError, KeyError, TypeError) as error:
                msg = f"{self._path}, line {number} is damaged. Delete the line; what it held is done again."
                raise RunError(msg) from error
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        return found


def environment() -> dict[str, Any]:
    """Where a run was made: versions, machine and git revision."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """Of the package's own checkout, if it runs from one."""
    package = Path(__file__).parents[2]
    try:
        root = _git(package, "rev-parse", "--show-toplevel")
        return _git(package, "describe", "--always", "--dirty", "--abbrev=12") if Path(root) == package.parent else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
