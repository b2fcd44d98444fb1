"""The folder of an evaluation: a manifest and append-only JSONL files.

    manifest.json             configuration, and the environments in which answers were generated
    answers.jsonl             answers
    scores-<scorer>.jsonl     scores of scorers with `is_stored`
    verdicts.jsonl            outcomes of the judge, by `Experiment`
    costs.jsonl               costs of methods, by `Experiment`

All files are JSON in UTF-8 or ASCII. A new version of the package must be able to read old files.
"""

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
def locked(folder: str | Path) -> Iterator[None]:
    """Create the folder if it does not exist, and lock it against other processes. A process may nest the lock.

    Raises:
        RunError: Another process has locked the folder.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        # With is_singleton, all locks of this path in this process are one lock, which can be acquired repeatedly.
        with FileLock(Path(folder).resolve() / ".lock", timeout=0, is_singleton=True):
            yield
    except Timeout as error:
        msg = f"Another process is using {folder}. Wait until it ends, or use another folder."
        raise RunError(msg) from error


class RunFolder:
    """A folder with a manifest and append-only JSONL files.

    Args:
        folder: Created if it does not exist. An interrupted evaluation resumes in the same folder.
        config: Settings that determine the answers, serialisable as JSON. A folder holds answers of one config.

    Raises:
        RunError: The folder has another config, or its manifest is missing or damaged.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest = self._begin(json.loads(json.dumps(config)))

    def records(self, name: str) -> "JsonlRecords":
        """Open the file `<name>.jsonl`, such as `"answers"`."""
        return JsonlRecords(self.folder / f"{name}.jsonl")

    def _begin(self, config: Mapping[str, Any]) -> dict[str, Any]:
        path = self.folder / _MANIFEST
        manifest = self._read_manifest(path) or {"config": config, "environments": []}
        if changed := sorted(_differences(manifest["config"], config)):
            msg = (
                f"{self.folder} holds answers with other settings: {', '.join(changed)}. Use another folder, or delete "
                f"this one."
            )
            raise RunError(msg)
        if (here := environment()) not in manifest["environments"]:
            manifest["environments"].append(here)
            _write_atomically(path, json.dumps(manifest, indent=2) + "\n")
        return manifest

    def _read_manifest(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            if next(self.folder.glob("*.jsonl"), None) is not None:
                msg = f"{self.folder} has answers but no {_MANIFEST}. Use another folder."
                raise RunError(msg)
            return None
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            msg = f"{path} is damaged. Restore it, or use another folder."
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
    """An append-only file with one JSON object per line, each with a unique `key`.

    If the last line is incomplete, because the program was killed while it wrote, that line is removed.

    Raises:
        RunError: A complete line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._by_key = self._read()

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._by_key[key]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([*self._by_key.values()])

    def __len__(self) -> int:
        return len(self._by_key)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, flushed to disk before this returns. A record whose key exists is ignored."""
        line = json.dumps(record, allow_nan=False) + "\n"  # ASCII, since some Unicode characters end a line
        with self._lock:
            if record["key"] in self._by_key:
                return
            with self._path.open("a", encoding="ascii") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._by_key[record["key"]] = dict(record)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(complete.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                records.setdefault(record["key"], record)
            except (ValueError, KeyError, TypeError) as error:
                msg = f"{self._path}, line {number} is damaged. Delete the line; its content is generated again."
                raise RunError(msg) from error
        if len(complete) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(complete))
        return records


def environment() -> dict[str, Any]:
    """Return versions of packages, the platform and the git revision."""
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
    """Return the revision of the package's git checkout, or `None` if it is installed otherwise."""
    package = Path(__file__).parents[2]
    try:
        root = _git(package, "rev-parse", "--show-toplevel")
        return _git(package, "describe", "--always", "--dirty", "--abbrev=12") if Path(root) == package.parent else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
