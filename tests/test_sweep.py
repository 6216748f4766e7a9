"""Sweeps: equal to separate runs, interrupted and continued; and failures that stop nothing."""

import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import signal
import typing

import ml_collections
import pytest

from s2mlp_jax.cli import ExitCode
from s2mlp_jax.config import load_config, load_module, to_options
from s2mlp_jax.models.cost import paper_parameters, variant_cost
from s2mlp_jax.sweep import __main__ as command_lib
from s2mlp_jax.sweep import measure
from s2mlp_jax.sweep import run as sweep_lib
from s2mlp_jax.sweep.settings import open_sweep
from s2mlp_jax.train import step, train_and_evaluate
from s2mlp_jax.train.experiment import Experiment
from tests.helpers import ROOT, TINY, assert_same_run, tiny_flags

SHIFT = str(ROOT / "configs/ablation_shift.py")
ROTATION = "ablation_rotation"  # not of the paper's, and at the scales of configs/compare.py
ABLATIONS = sorted(p.stem for p in (ROOT / "configs").glob("ablation_*.py") if p.stem != ROTATION)
SCALES = ("digits", "cifar10", "imagenet100")


def write_config(folder: pathlib.Path, settings: dict[str, dict[str, typing.Any]]) -> str:
    """Writes a config with these settings, beside the project's digits."""
    path = folder / "mine.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from configs.s2mlp_digits import get_config\n"
        f"def sweep():\n    return {settings!r}\n"
    )
    return str(path)


def test_runs_equal_separate_ones_and_seeds_share_what_is_compiled(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = []
    make_batch = step.training_batch
    monkeypatch.setattr(
        step, "training_batch", lambda *args: (traced.append(1), make_batch(*args))[1]
    )
    sweep = open_sweep(SHIFT, TINY, seeds=2, only="e,none")
    assert [(run.setting, run.seed) for run in sweep.runs] == [
        ("e", 0),
        ("e", 1),
        ("none", 0),
        ("none", 1),
    ]
    assert sweep_lib.run_sweep(sweep, tmp_path / "sweep") == []
    assert len(traced) == 2  # a setting each, not a seed each
    for setting, seed in (("e", 1), ("none", 0)):
        config = load_config(SHIFT, {**TINY, "model.shift": setting, "seed": seed})
        train_and_evaluate(config, tmp_path / "alone" / setting)
        assert_same_run(tmp_path / "sweep" / setting / str(seed), tmp_path / "alone" / setting)
    result = json.loads((tmp_path / "sweep/e/1/result.json").read_text())
    assert (result["seed"], result["steps"], result["evaluation"]["eval/count"]) == (1, 12, 360)


def test_interrupted_and_continued(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """SIGTERM in the second of two runs; the same command again goes on there."""
    monkeypatch.chdir(ROOT)
    command = ["--config=configs/ablation_shift.py", "--only=a,e", f"--workdir={tmp_path}/sweep"]
    command += tiny_flags()
    evaluate = Experiment.evaluate

    def kill_in_the_second(run: Experiment, state: typing.Any) -> dict[str, float]:
        if run.config.model.shift == "e":
            monkeypatch.setattr(Experiment, "evaluate", evaluate)
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run, state)

    monkeypatch.setattr(Experiment, "evaluate", kill_in_the_second)
    assert command_lib.main(command) == ExitCode.STOPPED
    output, errors = capfd.readouterr()
    assert "[1/2] a, seed 0: eval top-1" in output
    assert "Next: " not in output
    assert re.search(r"e, seed 0: Stopped at step \d of 12, which is saved. .* go on", errors)
    done = (tmp_path / "sweep/a/0/result.json").stat().st_mtime_ns
    assert not (tmp_path / "sweep/e/0/result.json").exists()

    assert command_lib.main(command) == 0
    output, _ = capfd.readouterr()
    assert "2 runs, 1 of them done before" in output
    assert "[2/2] e, seed 0: eval top-1" in output
    assert "resume    from step" in (tmp_path / "sweep/e/0/log.txt").read_text()
    assert (tmp_path / "sweep/a/0/result.json").stat().st_mtime_ns == done
    starts = [
        json.loads(line) for line in (tmp_path / "sweep/starts.jsonl").read_text().splitlines()
    ]
    assert [line["runs"] for line in starts] == [1, 1]
    assert all(0 < line["training_seconds"] < line["seconds"] for line in starts)
    assert list((tmp_path / "sweep").glob("*.tmp")) == []

    config = load_config(SHIFT, {**TINY, "model.shift": "e"})
    train_and_evaluate(config, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "sweep/e/0")


def test_a_failure_is_recorded_and_stops_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = write_config(
        tmp_path,
        {
            "nan": {"optimizer.learning_rate": 1e38, "train.ema_decay": 0.0},
            "memory": {"model.dim": 8},
            "good": {"model.dim": 16},
        },
    )
    ran: list[str] = []
    train = sweep_lib.train

    def full(run: typing.Any, folder: pathlib.Path, step: typing.Any) -> dict[str, float]:
        ran.append(folder.parent.name)
        if run.config.model.dim == 8 and len(ran) < 4:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train(run, folder, step)

    monkeypatch.setattr(sweep_lib, "train", full)
    tiny = {**TINY, "optimizer.learning_rate": 1e-3}
    del tiny["model.dim"], tiny["train.ema_decay"], tiny["optimizer.learning_rate"]
    command = [f"--config={path}", f"--workdir={tmp_path}/w"]
    command += [f"--config.{field}={value}" for field, value in tiny.items()]
    assert command_lib.main(command) == ExitCode.SOME_FAILED
    assert ran == ["nan", "memory", "good"]
    output, errors = capfd.readouterr()
    assert re.search(r"\[1/3\] nan, seed 0: FAILED: train/\w+ is (nan|inf) at step", output)
    assert "[2/3] memory, seed 0: FAILED: RESOURCE_EXHAUSTED" in output
    assert "2 runs failed: nan seed 0, memory seed 0." in errors
    failure = json.loads((tmp_path / "w/nan/0/failure.json").read_text())
    assert (failure["kind"], failure["setting"], failure["seed"]) == ("nan", "nan", 0)
    assert "Traceback" in (tmp_path / "w/memory/0/log.txt").read_text()

    assert command_lib.main(command) == ExitCode.SOME_FAILED  # of the NaN, which would be one again
    assert ran[3:] == ["memory"]
    assert (tmp_path / "w/memory/0/result.json").exists()
    assert not (tmp_path / "w/memory/0/failure.json").exists()


def test_a_stop_between_two_runs_is_not_lost(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the last evaluation of the first run: it is finished, the second not begun."""
    evaluate = Experiment.evaluate

    def kill_at_the_end(run: Experiment, state: typing.Any) -> dict[str, float]:
        if int(state.step) == run.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(run, state)

    monkeypatch.setattr(Experiment, "evaluate", kill_at_the_end)
    before = signal.getsignal(signal.SIGTERM)
    sweep = open_sweep(SHIFT, TINY, only="a,e")
    with pytest.raises(sweep_lib.Stopped, match="Stopped after 1 runs of this start"):
        sweep_lib.run_sweep(sweep, tmp_path)
    assert (tmp_path / "a/0/result.json").exists()
    assert not (tmp_path / "e").exists()
    assert [run.setting for run in sweep_lib.runs_left(sweep, tmp_path)] == ["e"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_shards_that_start_together_write_one_description(tmp_path: pathlib.Path) -> None:
    sweep = open_sweep(SHIFT, TINY, only="a")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for written in [pool.submit(sweep.write_description, tmp_path) for _ in range(80)]:
            written.result()
    lines = (tmp_path / "sweep.jsonl").read_text().splitlines()
    assert [json.loads(line).get("setting") for line in lines] == [None, *sweep.settings]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.jsonl"]


def test_shards_are_a_partition_of_about_equal_cost() -> None:
    depth = str(ROOT / "configs/ablation_depth.py")
    whole = open_sweep(depth, seeds=3).runs
    parts = [open_sweep(depth, seeds=3, shard=f"{i}/4").runs for i in range(4)]
    assert [run for part in parts for run in part] == list(whole)
    costs = [sum(run.cost for run in part) for part in parts]
    assert max(costs) - min(costs) <= 2 * max(run.cost for run in whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=a,z"], "there is no setting z. Allowed are a, b, c"),
        (["--shard=2/2"], "--shard must be I/N with 0 <= I < N, such as 0/4, got '2/2'"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--config.model.shift=e"], "--config.model.shift: this is what the sweep varies"),
        (["--config.seed=3"], "the seeds of a sweep are set by --seeds=N"),
        (["--config.model.dmi=3"], "no field 'model.dmi'"),
        (["--config.model.dim"], "--config.model.dim has no value"),
        (["--sedes=3"], "Unknown arguments --sedes=3"),
        (["--config=configs/s2mlp_wide.py"], r"has no sweep\(\): it is the config of a single run"),
        (["--config=configs/ablation_shift.py:huge"], "Unknown scale 'huge'.*digits, cifar10"),
        (["--config.data.name=nowhere"], "Setting a: .*nowhere"),
        (["--config.model.dim=2"], "Setting a: .*2 channels cannot be cut into 4 shift groups"),
    ],
)
def test_mistakes_are_told_at_the_start(
    arguments: list[str],
    message: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(ROOT)
    workdir = tmp_path / "w"
    command = [f"--config={SHIFT}", f"--workdir={workdir}", *arguments]
    assert command_lib.main(command) == ExitCode.BAD_INPUT
    assert re.search(message, capsys.readouterr().err)
    assert not workdir.exists()


def test_a_name_that_is_no_folder_and_a_seed_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"'\.\./x' of .* names a folder"):
        open_sweep(write_config(tmp_path, {"../x": {}}))
    with pytest.raises(ValueError, match="sets the seed; --seeds does"):
        open_sweep(write_config(tmp_path, {"x": {"seed": 1}}))
    with pytest.raises(ValueError, match="must return a dict"):
        open_sweep(write_config(tmp_path, {}))


def test_a_folder_of_another_sweep_is_refused_before_anything_is_trained(
    tmp_path: pathlib.Path,
) -> None:
    sweep_lib.run_sweep(open_sweep(SHIFT, {**TINY, "train.steps": 3}, only="e"), tmp_path)
    before = (tmp_path / "sweep.jsonl").read_text()
    with pytest.raises(ValueError, match="belongs to a run of another config(.|\n)*train.steps"):
        sweep_lib.run_sweep(open_sweep(SHIFT, TINY, only="a,e"), tmp_path)
    assert not (tmp_path / "a").exists()
    # Nor other settings of it, trained otherwise; how the data are read is another matter.
    changes = {**TINY, "train.steps": 3}
    with pytest.raises(
        ValueError, match=r"other fields.*compare.*train.steps: 3 there, 4 here\. T"
    ):
        sweep_lib.run_sweep(open_sweep(SHIFT, {**changes, "train.steps": 4}, only="a"), tmp_path)
    with pytest.raises(ValueError, match="train.epochs: unchanged there, 2.0 here"):
        measure.measure_sweep(
            open_sweep(SHIFT, {**changes, "train.epochs": 2.0}, only="a"), tmp_path
        )
    open_sweep(SHIFT, {**changes, "data.num_threads": 2}, only="a").write_description(tmp_path)
    border = open_sweep(str(ROOT / "configs/ablation_border.py"), TINY, only="zero")
    with pytest.raises(ValueError, match="belongs to the sweep .*ablation_shift.py; take another"):
        sweep_lib.run_sweep(border, tmp_path)
    assert (tmp_path / "sweep.jsonl").read_text() == before
    assert not (tmp_path / "zero").exists()


def test_list_says_what_would_run_and_its_cost(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    depth = f"--config={ROOT}/configs/ablation_depth.py"
    command = [depth, f"--workdir={tmp_path}/w", "--seeds=3", "--list", "--only=N=1,N=3"]
    assert command_lib.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    # 16 tokens x (4 x 64 + N x 10 x 64^2) + 64 x 10 for each image, 674 steps of 64 images.
    macs = [16 * (4 * 64 + n * 10 * 64**2) + 640 for n in (1, 3)]
    assert lines[1].split() == ["N=1", "42,762", f"{macs[0]:,}", "674", "3"]
    assert lines[2].split() == ["N=3", "126,090", f"{macs[1]:,}", "674", "3"]
    assert f"6 runs; their training steps take {6 * 3 * 674 * 64 * sum(macs):.3g} " in lines[3]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_at_every_scale(name: str, scale: str) -> None:
    """Every setting is allowed, its name is its own, and the table speaks of these settings."""
    path = f"{ROOT}/configs/{name}.py:{scale}"
    module, argument = load_module(path)
    settings, table = module.sweep(*argument), module.table(*argument)
    configs = {key: load_config(path, settings[key]) for key in settings}
    assert len({str(config) for config in configs.values()}) == len(settings)
    assert set(table["rows"]) <= set(settings)
    if name != "ablation_depth" or scale == "imagenet100":
        # The baseline is the scale's base model: where the tables of the paper meet.
        assert configs[table["baseline"]] == load_config(path)


@pytest.mark.parametrize("scale", ["digits", "cifar10_small", "cifar10", "imagenet"])
def test_patterns_on_turned_images(scale: str) -> None:
    """Five patterns, upright and turned, with and without flip; all else is the same."""
    path = f"{ROOT}/configs/{ROTATION}.py:{scale}"
    module, _ = load_module(path)
    settings = module.sweep(scale)
    found = set()
    for overrides in settings.values():
        config = load_config(path, overrides)
        found.add((config.model.shift, config.data.rotate, config.data.flip))
    assert found == set(itertools.product("aefgi", (0, 90), (0.0, 0.5)))
    assert {tuple(overrides) for overrides in settings.values()} == {
        ("model.shift", "data.rotate", "data.flip")
    }
    assert module.table(scale)["baseline"] in settings


def test_a_call_is_measured_three_times_and_once_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one, which compiles, is left out; the median is taken of the others."""
    clock, taken = [0.0], iter([100.0, 1.0, 5.0, 2.0])

    def call() -> None:
        clock[0] += next(taken)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    assert measure._seconds(call) == 2.0


def test_measuring_trains_nothing_and_is_for_the_report(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(function: typing.Callable[[], typing.Any]) -> float:
        function()
        return 2.0 if function.__name__ == "take_step" else 0.5

    monkeypatch.setattr(measure, "_seconds", seconds)
    file = tmp_path / "speed.json"

    def settings_after(only: str) -> dict[str, dict[str, float]]:
        flags = [f"--config={SHIFT}", f"--workdir={tmp_path}", f"--only={only}", "--measure"]
        assert command_lib.main([*flags, *tiny_flags()]) == 0
        return json.loads(file.read_text())["settings"]

    (figures,) = settings_after("a").values()
    assert figures["train_images_per_second"] == TINY["train.batch_size"] / 2.0
    assert figures["eval_images_per_second"] == TINY["eval.batch_size"] / 0.5
    assert figures["memory_bytes"] > 0
    # sweep.jsonl holds the folder for these settings and fields.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "sweep.jsonl"]
    assert list(settings_after("none")) == ["a", "none"]
    # What was measured with other code does not stand beside it.
    written = json.loads(file.read_text())
    written["environment"]["git_commit"] = "another"
    file.write_text(json.dumps(written))
    assert list(settings_after("a")) == ["a"]


@pytest.mark.parametrize("scale", ["digits", "cifar10_small", "cifar10", "imagenet"])
def test_the_comparison_is_on_equal_terms(scale: str) -> None:
    """One recipe; mixers of equal width and depth; families of equal size, within a tenth."""
    path = f"{ROOT}/configs/compare.py:{scale}"
    module, _ = load_module(path)
    classes, channels = module.SCALES[scale].classes, module.SCALES[scale].channels
    base = load_config(path)
    size = base.data.image_size

    def cost(config: ml_collections.ConfigDict) -> tuple[int, int]:
        found = variant_cost(to_options(config).model.variant, size, classes, channels)
        return found.parameters, found.macs + found.attention_macs

    parameters, macs = cost(base)
    for name, fields in module.sweep(scale).items():
        config = load_config(path, fields)
        for part in ("data", "augment", "train", "optimizer", "eval"):
            assert config[part] == base[part], (name, part)
        assert config.model.drop_path == base.model.drop_path
        if "=" in name:
            found, target = (
                (cost(config)[0], parameters) if "=params" in name else (cost(config)[1], macs)
            )
            assert abs(found / target - 1) < 0.1, (name, found, target)
        else:
            same = (config.model.depth, config.model.dim, config.model.patch_size)
            assert same == (base.model.depth, base.model.dim, base.model.patch_size)
    assert module.table(scale)["baseline"] in module.sweep(scale)
    with pytest.raises(ValueError, match="Allowed are digits, cifar10_small"):
        module.sweep("cifar")


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "ablation_border"])
def test_the_papers_tables_are_rebuilt_and_their_misprints_explained(name: str) -> None:
    """Sizes as printed are the exact ones in 10^6 and 10^9, or a note has the exact ones."""
    path = f"{ROOT}/configs/{name}.py:imagenet100"
    module, _ = load_module(path)
    rows, settings = module.table("imagenet100")["rows"], module.sweep("imagenet100")
    assert list(rows) == list(settings)
    for key, row in rows.items():
        config = load_config(path, settings[key])
        variant = to_options(config).model.variant
        parameters = paper_parameters(variant)
        macs = variant_cost(variant, config.data.image_size, 0).macs
        for exact, printed, unit in (
            (parameters, row["parameters"], 1e6),
            (macs, row["macs"], 1e9),
        ):
            if printed and not _rounds_to(exact / unit, printed[:-1]):
                assert f"{exact:,}" in row["note"], (key, exact, printed)


def _rounds_to(value: float, printed: str) -> bool:
    decimals = len(printed.partition(".")[2])
    return f"{value:.{decimals}f}" == printed
