"""The JSON record of a checkpoint: sealed with checksums when written, checked when read."""

import hashlib
import json
import typing

from s2mlp_jax.saved.checksums import check, checksums
from s2mlp_jax.saved.disk_faults import DamagedError
from s2mlp_jax.saved.files import Folder, read_json

Record = dict[str, typing.Any]

# Entries that `seal` adds, and `contents` removes.
_SCORE, _ARRAYS, _OWN = "score", "array_checksums", "record_checksum"


def seal(record: Record, state: typing.Any, score: float | None) -> Record:
    """Returns a record with the score, the checksum of each array, and its own checksum."""
    record = {**record, _SCORE: score, _ARRAYS: checksums(state)}
    return {**record, _OWN: _checksum(record)}


def contents(record: Record) -> Record:
    """Returns what was given to `seal`."""
    return {k: v for k, v in record.items() if k not in (_SCORE, _ARRAYS, _OWN)}


def read_record(folder: Folder, step: int) -> Record:
    """Reads the record of a checkpoint, and checks it.

    Raises:
      ValueError: if it cannot be read.
      DamagedError: if it is not what was written, or of another step.
    """
    record = read_json(folder.record_file(step))
    if not isinstance(record, dict) or "step" not in record:
        raise DamagedError("its record holds no step")
    own = record.get(_OWN)  # checkpoints of earlier versions have none
    if own not in (None, _checksum({k: v for k, v in record.items() if k != _OWN})):
        raise DamagedError("its record has another checksum than when it was saved")
    if record["step"] != step:
        raise DamagedError(f"its record is of step {record['step']}")
    return record


def read_score(folder: Folder, step: int) -> float | None:
    """Returns the score of a checkpoint; None if it has none, or it cannot be read."""
    try:
        record = read_json(folder.record_file(step))
        # Earlier versions let Orbax keep the score.
        kept = record if _SCORE in record else read_json(folder.score_file(step))
        return None if kept[_SCORE] is None else float(kept[_SCORE])
    except (ValueError, TypeError, KeyError):  # `read_record` reports a damaged record
        return None


def check_state(state: typing.Any, record: Record, partial: bool = False) -> None:
    """Compares a state, or a part of it, with the checksums in its record, as `checksums.check`."""
    if _ARRAYS in record:  # not in checkpoints of earlier versions
        check(state, record[_ARRAYS], partial)


def _checksum(record: Record) -> str:
    """Returns the checksum of a record, over its JSON with sorted keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
