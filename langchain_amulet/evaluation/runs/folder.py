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
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from langchain_amulet.exceptions import RunError

_PACKAGES = ("langchain-amulet", "torch", "transformers", "langchain-core", "numpy")
_MANIFEST = "manifest.json"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert errors of the disk, such as a full one, to `RunError`."""
    try:
        yield
    except OSError as error:
        msg = (
            f"Cannot write {path}: {error.strerror or error}. What is stored so far is intact. Make room or change the "
            f"permissions, and run the evaluation again to resume it, or use another folder."
        )
        raise RunError(msg) from error


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Create the folder if it does not exist, and lock it against other processes. A process may nest the lock.

    Raises:
        RunError: Another process has locked the folder, or it cannot be created.
    """
    # With is_singleton, all locks of this path in this process are one lock, which can be acquired repeatedly.
    lock = FileLock(Path(folder).resolve() / ".lock", timeout=0, is_singleton=True)
    with _writing(Path(folder)):
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            msg = f"Another process is using {folder}. Wait until it ends, or use another folder."
            raise RunError(msg) from error
    try:
        yield
    finally:
        lock.release()


class RunFolder:
    """A folder with a manifest and append-only JSONL files.

    Args:
        folder: Created if it does not exist. An interrupted evaluation resumes in the same folder.
        config: Settings that determine the answers, serialisable as JSON. A folder holds answers of one config.

    Raises:
        RunError: The folder has another config, its manifest is missing or damaged, or it cannot be written.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.manifest = self._begin(json.loads(json.dumps(config)))

    def records(self, name: str, fields: Collection[str] = ()) -> "JsonlRecords":
        """Open the file `<name>.jsonl`, such as `"answers"`, whose records have these fields and maybe others."""
        return JsonlRecords(self.folder / f"{name}.jsonl", fields)

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
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            msg = f"{path} is damaged. Restore it, or use another folder."
            raise RunError(msg) from error
        fields = manifest if isinstance(manifest, dict) else {}
        if not isinstance(fields.get("config"), dict) or not isinstance(fields.get("environments"), list):
            msg = f"{path} is not the manifest of an evaluation. Use another folder."
            raise RunError(msg)
        return fields


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with _writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class JsonlRecords:
    """An append-only file with one JSON object per line, each with a unique `key`.

    If the last line is incomplete, because the program was killed while it wrote, that line is removed.

    Args:
        path: The file; it need not exist.
        fields: Fields that each record has, besides its `key`.

    Raises:
        RunError: A complete line is damaged, or is no such record.
    """

    def __init__(self, path: Path, fields: Collection[str] = ()) -> None:
        self._path = path
        self._fields = {"key", *fields}
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
        """Write a record, flushed to disk before this returns. A record whose key exists is ignored.

        Raises:
            RunError: The file cannot be written. No part of the record stays in it.
        """
        line = json.dumps(record, allow_nan=False) + "\n"  # ASCII, since some Unicode characters end a line
        with self._lock:
            if record["key"] in self._by_key:
                return
            with _writing(self._path):
                self._write(line.encode("ascii"))
            self._by_key[record["key"]] = dict(record)

    def _write(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while line:  # a write may take only a part of it
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except BaseException:  # a full disk, or Ctrl-C: the next record must not continue this line
                file.truncate(size)
                raise

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        with _writing(self._path):
            content = self._path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        records: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(complete.split(b"\n")[:-1], 1):
            try:
                record = json.loads(line)
                is_record = isinstance(record, dict) and self._fields <= record.keys()
            except (ValueError, RecursionError):
                is_record = False
            if not is_record or not isinstance(record["key"], str):
                msg = f"{self._path}, line {number} is damaged. Delete the line; its content is generated again."
                raise RunError(msg)
            records.setdefault(record["key"], record)
        if len(complete) < len(content):
            with _writing(self._path), self._path.open("r+b") as file:
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
