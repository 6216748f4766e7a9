"""Damage to checkpoints is noticed; what is not damage moves nothing."""

import asyncio
import errno
import json
import os
import pathlib
import shutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from s2mlp_jax.saved.checkpoints import Checkpoints
from s2mlp_jax.saved.checksums import checksums
from s2mlp_jax.saved.disk_faults import DamagedError, DiskError
from s2mlp_jax.train import devices as devices_lib
from tests.test_checkpoint import (
    _collect_what_failed_restores_leave,  # noqa: F401, a fixture
    a_state,
    shapes,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def two_checkpoints(workdir: pathlib.Path) -> Checkpoints:
    checkpoints = Checkpoints(workdir, keep=3)
    for step in (2, 4):
        noise = jax.random.normal(jax.random.key(step), (300, 40))
        checkpoints.save(step, {"w": noise, "b": noise[0].astype(jnp.bfloat16)}, {"step": step})
    checkpoints.close()
    return Checkpoints(workdir, keep=3)


LIKE = {
    "w": jax.ShapeDtypeStruct((300, 40), jnp.float32),
    "b": jax.ShapeDtypeStruct((40,), jnp.bfloat16),
}


def like() -> dict[str, jax.ShapeDtypeStruct]:
    whole = devices_lib.make_layout(jax.devices()[:1]).replicated
    return {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole) for k, x in LIKE.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_a_checksum_changes_with_any_bit_and_does_not_depend_on_the_sharding(dtype: str) -> None:
    layout = devices_lib.make_layout(shard_state=True)
    x = np.random.RandomState(0).randint(0, 2, (64, 24)).astype(dtype)
    placed = [jax.device_put(x, s) for s in (layout.state_sharding((64, 24)), layout.replicated)]
    sums = {checksums({"x": y})["x"] for y in (x, *placed, jnp.asarray(x), x.copy(order="F"))}
    assert len(sums) == 1
    changed = set()
    for bit in range(0, 8 * x.nbytes, 37):
        if dtype == "bool" and bit % 8:
            continue
        data = bytearray(x.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        changed.add(checksums({"x": np.frombuffer(bytes(data), x.dtype).reshape(x.shape)})["x"])
    assert sums.isdisjoint(changed)
    assert sums.isdisjoint({checksums({"x": y})["x"] for y in (x[::-1], x[:, ::-1], 0 * x)})


def test_a_flipped_bit_of_the_arrays_is_noticed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    """At 30 places of the largest file, which holds the values."""
    two_checkpoints(tmp_path / "whole").close()
    data = max(
        (p for p in (tmp_path / "whole/checkpoints/4/state").rglob("*") if p.is_file()),
        key=lambda path: path.stat().st_size,
    ).relative_to(tmp_path / "whole")
    size = (tmp_path / "whole" / data).stat().st_size
    named = meaningless = 0
    whole = checksums(Checkpoints(tmp_path / "whole").restore(4, like())[0])
    for place in np.linspace(0, size - 1, 30).astype(int):
        workdir = tmp_path / f"at {place}"
        shutil.copytree(tmp_path / "whole", workdir)
        content = bytearray((workdir / data).read_bytes())
        content[place] ^= 4
        (workdir / data).write_bytes(content)
        checkpoints = Checkpoints(workdir, keep=3)
        restored = checkpoints.restore_latest(like())
        checkpoints.close()
        assert restored is not None
        if restored[1]["step"] == 4:  # a bit without a meaning
            assert checksums(restored[0]) == whole
            meaningless += 1
            continue
        said = capsys.readouterr().out
        assert f"Checkpoint 4 in {workdir}/checkpoints is damaged: " in said
        named += "w differ from what was saved" in said or "b differ from what was saved" in said
        assert (workdir / "broken_checkpoints" / "4").is_dir()
    assert named > 20  # TensorStore itself notices others
    assert meaningless < 3


def edit_record(workdir: pathlib.Path, step: int, change: typing.Callable[[dict], object]) -> None:
    file = workdir / "checkpoints" / str(step) / "record" / "metadata"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(step=3), "its record has another checksum"),
        (lambda record: record.clear(), "its record holds no step"),
        (lambda record: record["array_checksums"].update(w="00000000"), "its record has another"),
    ],
)
def test_a_changed_record_is_noticed(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    change: typing.Callable[[dict], object],
    message: str,
) -> None:
    two_checkpoints(tmp_path).close()
    edit_record(tmp_path, 4, change)
    restored = Checkpoints(tmp_path, keep=3).restore_latest(like())
    assert restored is not None
    assert restored[1] == {"step": 2}
    assert message in capsys.readouterr().out


def test_a_copy_with_the_name_of_another_step_is_no_checkpoint(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    two_checkpoints(tmp_path).close()
    shutil.copytree(tmp_path / "checkpoints/4", tmp_path / "checkpoints/100")
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert checkpoints.restore_latest(like())[1] == {"step": 4}  # type: ignore[index]
    assert "100 in " in (said := capsys.readouterr().out)
    assert "its record is of step 4" in said
    checkpoints.save(6, a_state(6), {"step": 6})  # it was not saved beside a later one
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 4, 6]


def test_a_save_that_orbax_refuses_is_an_error(tmp_path: pathlib.Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    with pytest.raises(RuntimeError, match="Checkpoint 3 was not saved: .* later checkpoint 4"):
        checkpoints.save(3, a_state(3), {"step": 3})


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error", "x"),
        PermissionError(errno.EACCES, "Permission denied", "x"),
        MemoryError(),
        asyncio.CancelledError(),
        ValueError("PERMISSION_DENIED: Error opening x: [os_error_code='13']"),
        ValueError("Error reading: Too many open files [os_error_code='24']"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
    ],
    ids=lambda error: str(error)[:20] or type(error).__name__,
)
def test_what_may_pass_moves_no_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    checkpoints = two_checkpoints(tmp_path)

    def fail(*_: typing.Any, **__: typing.Any) -> None:
        raise RuntimeError("Orbax failed") from error

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
    with pytest.raises(DiskError, match="Checkpoint 4 in .* cannot be read now"):
        checkpoints.restore_latest(like())
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "4"]
    assert not (tmp_path / "broken_checkpoints").exists()


def test_weights_alone_are_compared_too(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = {"params": {"w": jnp.ones((3, 3))}, "model_state": {}}
    checkpoints.save(1, state, {"step": 1})
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).read_variables(1)[0].keys() == {"params"}
    record = tmp_path / "checkpoints/1/record/metadata"
    content = json.loads(record.read_text())
    del content["record_checksum"]  # as if another array had been saved
    content["array_checksums"]["params/w"] = "00000000"
    record.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=r"Checkpoint 1 in .*: params/w differ from what was"):
        Checkpoints(tmp_path, read_only=True).read_variables(1)


def test_a_checkpoint_of_version_0_2_is_read_with_its_score(tmp_path: pathlib.Path) -> None:
    """Its score lies in a file of its own, which may be damaged, and it has no checksums."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, score in ((1, 0.9), (2, 0.5), (3, 0.1)):
        checkpoints.save(step, a_state(step), {"step": step}, score)
    checkpoints.close()
    for step, score in ((1, '{"score": 0.9}'), (3, "")):

        def remove(record: dict) -> None:
            for name in ("score", "array_checksums", "record_checksum"):
                record.pop(name)

        edit_record(tmp_path, step, remove)
        file = tmp_path / "checkpoints" / str(step) / "metrics" / "metrics"
        file.parent.mkdir()
        file.write_text(score)
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.steps() == [1, 3]
    assert checkpoints.best_step() == 1
    assert checkpoints.restore_latest(shapes(a_state(0)))[1] == {"step": 3}  # type: ignore[index]
