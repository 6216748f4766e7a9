"""Names of the files that runs, sweeps and exported models write; does not import jax."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import typing
import uuid

_MAX_BYTES = 64 << 20  # of a JSON file
_MAX_NESTING = 32  # of lists and objects in one another
_TOO_DEEP = f"it is nested more than {_MAX_NESTING} deep"

Kind = typing.Literal["run", "exported model", "sweep", "none"]

_A_KIND: dict[str, str] = {
    "run": "the folder of a run",
    "exported model": "an exported model",
    "sweep": "the folder of a sweep",
}
_ADVICE = {
    "run": "",
    "exported model": (
        " Exported models are for s2mlp_jax.predict, s2mlp_jax.probe, s2mlp_jax.load and "
        "--config.init_from."
    ),
    "sweep": " Its runs are the folders SETTING/SEED in it.",
}


class _File:
    """The path of a file or folder in a `Folder`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "Folder", owner: type | None = None) -> pathlib.Path:
        return folder.path / self.name


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder on disk, and the paths of all files that it may hold."""

    path: pathlib.Path

    # Files of a run; an exported model has a config.json too.
    config_file = _File("config.json")
    data_file = _File("data.json")
    environment_file = _File("environment.json")
    metrics_file = _File("metrics.jsonl")
    evaluations_file = _File("eval.jsonl")
    result_file = _File("result.json")
    checkpoints = _File("checkpoints")
    broken_checkpoints = _File("broken_checkpoints")
    lock_file = _File(".lock")
    # Files of a sweep and of its runs.
    sweep_file = _File("sweep.jsonl")
    speed_file = _File("speed.json")
    log_file = _File("log.txt")
    failure_file = _File("failure.json")
    # Files of an exported model.
    weights_file = _File("model.safetensors")
    preprocessing_file = _File("preprocessing.json")
    class_names_file = _File("class_names.json")
    card_file = _File("README.md")

    def starts_file(self, shard: str) -> pathlib.Path:
        """Returns the file with one line per start of a sweep's shard; "0/1" is the whole sweep."""
        part = "" if shard == "0/1" else f"-{shard.replace('/', '-of-')}"
        return self.path / f"starts{part}.jsonl"

    def shard_lock_file(self, shard: str) -> pathlib.Path:
        """Returns the lock of a sweep's shard."""
        return self.path / f".lock-{shard.replace('/', '-of-')}"

    def record_file(self, step: int) -> pathlib.Path:
        """Returns the JSON record of a checkpoint, as Orbax's handler names it."""
        return self.checkpoints / str(step) / "record" / "metadata"

    def state_folder(self, step: int) -> pathlib.Path:
        """Returns the folder of a checkpoint's arrays."""
        return self.checkpoints / str(step) / "state"

    def score_file(self, step: int) -> pathlib.Path:
        """Returns the file where version 0.2 kept the score of a checkpoint."""
        return self.checkpoints / str(step) / "metrics" / "metrics"

    def last_saved_step(self) -> int:
        """Returns the step of a run's last checkpoint, or 0 if none; does not open it."""
        return max(self.saved_steps(), default=0)

    def saved_steps(self) -> list[int]:
        """Returns the steps of a run's checkpoints, in any order; does not open them."""
        names = [path.name for path in self.checkpoints.glob("*")]
        return [int(name) for name in names if name.isdigit()]

    @property
    def kind(self) -> Kind:
        """Kind of the folder; "none" also if the folder does not exist."""
        if self.sweep_file.exists():
            return "sweep"
        if self.weights_file.is_file():
            return "exported model"
        if self.config_file.exists():
            with contextlib.suppress(ValueError):  # whoever needs a damaged file reports it
                config = read_json(self.config_file)
                if isinstance(config, dict) and "training" in config:
                    return "exported model"
            return "run"
        return "run" if self.checkpoints.is_dir() else "none"

    def check_kind(self, *allowed: Kind) -> Kind:
        """Returns the kind of the folder.

        Args:
          allowed: kinds; "none" for a folder that may be new.

        Raises:
          ValueError: if the kind is not allowed; the message names the actual kind.
        """
        kind = self.kind
        if kind in allowed:
            return kind
        wanted = " or ".join(_A_KIND[name] for name in allowed if name != "none")
        if not self.path.is_dir():
            raise ValueError(f"There is no folder {self.path}; {wanted} is expected.")
        if kind != "none":
            raise ValueError(f"{self.path} is {_A_KIND[kind]}, not {wanted}.{_ADVICE[kind]}")
        files = (self.config_file, self.checkpoints, self.weights_file, self.sweep_file)
        raise ValueError(
            f"{self.path} is not {wanted}: it holds none of {', '.join(x.name for x in files)}."
        )


def local_path(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the absolute path of a folder that a user named, which may not exist yet.

    Raises:
      ValueError: if no folder can be there: the path is empty, remote or too long, or it or a part
        of it is a file.
    """
    text = str(path)
    if not text.strip() or str(path) == ".":
        raise ValueError("The folder's path is empty; name a folder, such as /tmp/run.")
    if "://" in text or re.match(r"(gs|s3|hdfs):/", text):  # pathlib makes one slash of two
        raise ValueError(f"{text} is not a local folder, and only these can be used so far.")
    found = pathlib.Path(text).expanduser().absolute()
    try:
        for part in (found, *found.parents):
            if part.exists() and not part.is_dir():
                what = "a file, not a folder" if part == found else f"below the file {part}"
                raise ValueError(f"{found} is {what}.")
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"{found} cannot be used: {error.strerror}.") from error
    return found


def read_json(path: pathlib.Path) -> typing.Any:
    """Reads a JSON file.

    Raises:
      ValueError: if the file is missing, not JSON, or too large; the message names the file.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe may never end
            raise ValueError("it is not a file")
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, and at most {_MAX_BYTES:,} are read")
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def parse_json(text: str) -> typing.Any:
    """Returns the content of a JSON text.

    Raises:
      ValueError: if it is not JSON, or nested more deeply than any file of ours.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [x for x in [content] if isinstance(x, dict | list)], 0
    while level:
        depth += 1
        if depth > _MAX_NESTING:
            raise ValueError(_TOO_DEEP)
        lists = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for items in lists for x in items if isinstance(x, dict | list)]
    return content


def read_json_lines(path: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Reads a file with one JSON object per line, none if it is missing; skips other lines.

    A killed process can leave an incomplete last line.
    """
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(content := json.loads(line), dict):
                found.append(content)
    return found


def write_json(path: pathlib.Path, content: typing.Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append_json_line(path: pathlib.Path, content: typing.Any) -> None:
    """Appends one line of JSON to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    # A unique name: the shards of a sweep write the same file, possibly from several machines.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
