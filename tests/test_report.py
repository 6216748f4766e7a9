"""Reports: from fixed JSON to golden text, without jax; pictures with something in them."""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys
import typing

import numpy as np
import pytest
from PIL import Image

from s2mlp_jax.report import read_study, write_report
from s2mlp_jax.report.__main__ import main
from s2mlp_jax.report.statistics import paired_difference, rank_correlation
from tests.helpers import ROOT

GOLDEN = pathlib.Path(__file__).parent / "golden_report.md"
PAPER = {
    "small": {
        "label": "c=192",
        "top1": 79.7,
        "top5": 94.7,
        "parameters": "4.3M",
        "macs": "0.9B",
        "note": "Really 4.59 x 10^6.",
    },
    "base": {
        "label": "c=768",
        "top1": 87.1,
        "top5": 97.1,
        "parameters": "71M",
        "macs": "14B",
        "note": "",
    },
    "wide|<b>": {
        "label": "c=960",
        "top1": 87.0,
        "top5": 97.0,
        "parameters": "106M",
        "macs": "20B",
        "note": "Both in binary units.",
    },
}
# top-1 of each seed; text: why it failed; None: it is not finished.
TOP1: dict[str, list[float | str | None]] = {
    "small": [0.80, 0.82, 0.81],
    "base": [0.90, 0.91, 0.92],
    "wide|<b>": [0.91, 0.93, "train/loss is nan at step 12\nmore of it"],
    "odd": [None],
}


def write_json(path: pathlib.Path, content: typing.Any) -> None:
    path.write_text(json.dumps(content))


def write_run(folder: pathlib.Path, seed: int, value: float | str | None) -> None:
    """Writes the files that a run leaves; 20 steps of 8 images, 2 epochs."""
    folder.mkdir(parents=True)
    environment = {
        "time": f"2026-11-25T0{seed}:00:00+0000",
        "command": ["sweep.py", "--config=configs/x.py", "--seeds=3"],
        "git_commit": "0123abc",
        "python": "3.11.7",
        "platform": "Linux",
        "processor": "A processor",
        "processor_cores": 2,
        "versions": {"jax": "0.10.2", "flax": "0.12.8"},
        "devices": ["cpu:cpu"],
        "processes": 1,
        "XLA_FLAGS": "",
    }
    write_json(folder / "environment.json", environment)
    lines: list[dict[str, float]] = []
    top1 = value if isinstance(value, float) else 0.1
    for step in (10, 20):
        train = {"train/loss": 2.0 - step / 20 + seed / 10, "train/images_per_second": 40.0}
        lines.append({"step": step, **train, "train/data_wait_seconds": 0.5})
        lines.append({"step": step, "eval/accuracy_top1": top1 * step / 20})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if isinstance(value, str):
        failure = {"kind": "nan", "error": value, "setting": folder.parent.name, "seed": seed}
        write_json(folder / "failure.json", failure)
    if isinstance(value, float):
        evaluation = {
            "eval/accuracy_top1": value,
            "eval/accuracy_top5": (1 + value) / 2,
            "eval/loss": 1 - value,
            "eval/count": 100,
        }
        result = {
            "model": "s2mlp_tiny",
            "seed": seed,
            "train_data": "digits/1.0.0 train",
            "train_images": 80,
            "eval_data": "digits/1.0.0 test",
            "image_size": 8,
            "parameters": 1000 * len(folder.parent.name),
            "macs": 20000,
            "steps": 20,
            "epochs": 2.0,
            "batch_size": 8,
            "evaluation": evaluation,
        }
        write_json(folder / "result.json", result)


@pytest.fixture
def sweep(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "width"
    for setting, values in TOP1.items():
        for seed, value in enumerate(values):
            write_run(folder / setting / str(seed), seed, value)
    head = {
        "config": "configs/x.py",
        "title": "Table 5: width",
        "baseline": "base",
        "note": "Mind.",
    }
    rows = [{"setting": s, "overrides": {}, "paper": PAPER.get(s)} for s in TOP1]
    text = "".join(json.dumps(line) + "\n" for line in [head, *rows])
    (folder / "sweep.jsonl").write_text(text)
    return folder


def test_figures_that_differ_are_ranges_and_names_of_one_only(sweep: pathlib.Path) -> None:
    """A report names a figure only where all of its runs have it, and no folder of a machine."""
    place = sweep / "small/0/result.json"
    result = json.loads(place.read_text())
    images = {"train_data": "folder:/my/images train", "eval_data": "folder:/my/images val"}
    write_json(place, {**result, **images, "steps": 5, "epochs": 0.5, "model": "s2mlp_other"})
    text = (write_report([sweep]) / "report.md").read_text()
    assert (
        "\n0.5 to 2 epochs of 80 images (folder:images train, digits/1.0.0 train), 5 to 20 " in text
    )
    assert (
        "steps of 8; the last evaluation, on folder:images val, digits/1.0.0 test: 100 im" in text
    )
    assert "# Table 5: width, digits, folder:images\n" in text
    assert "s2mlp_" not in text
    assert "/my" not in text


def test_golden_text(sweep: pathlib.Path) -> None:
    """All that a report says of these runs (UPDATE_GOLDEN=1 rewrites it, to be read then)."""
    text = (write_report([sweep]) / "report.md").read_text()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def write_speed(sweep: pathlib.Path) -> None:
    """Writes what `sweep --measure` does; "odd" was not measured."""
    environment = json.loads((sweep / "base/0/environment.json").read_text())
    settings = {
        name: {
            "train_images_per_second": 1000.0 / i,
            "eval_images_per_second": 5000.0 / i,
            "memory_bytes": i * 2**20,
        }
        for i, name in enumerate(list(TOP1)[:3], start=1)
    }
    content = {"environment": environment, "rounds": 5, "settings": settings}
    write_json(sweep / "speed.json", content)


def test_accuracy_beside_what_it_costs(sweep: pathlib.Path) -> None:
    assert "training images/s" not in (write_report([sweep]) / "report.md").read_text()
    write_speed(sweep)
    folder = write_report([sweep])
    text = (folder / "report.md").read_text()
    assert "| small | 81.00 ± 1.00 | 5,000 | 20,000 | 1,000 | 2.00 | 5,000 | 2.00 | 1.0 |" in text
    assert "| base | 91.00 ± 1.00 | 4,000 | 20,000 | 500 | 1.00 | 2,500 | 1.00 | 2.0 |" in text
    assert "medians over 5 rounds" in text
    assert "Commit 0123abc; Python 3.11.7, jax 0.10.2" in text
    assert (folder / "report.html").read_text().count("data:image/png;base64,") == 3
    from s2mlp_jax.report import plots

    figure = plots.trade_offs(read_study(sweep))
    axes = {ax.get_xlabel(): ax for ax in figure.axes}
    assert len(axes) == 6  # five costs, and the panel of the legend
    drawn = [box.lines[0] for box in axes["training, images/s"].containers]
    assert [tuple(line.get_xdata()) for line in drawn] == [(1000.0,), (500.0,), (1000 / 3,)]
    assert [round(float(line.get_ydata()[0]), 6) for line in drawn] == [81.0, 91.0, 92.0]
    speed = json.loads((sweep / "speed.json").read_text())
    del speed["settings"]["small"]
    write_json(sweep / "speed.json", speed)
    (first, *_) = plots.trade_offs(read_study(sweep)).axes
    assert first.get_legend_handles_labels()[1] == ["base", "wide|<b>"]


def test_settings_that_were_not_run_are_named_and_left_out(sweep: pathlib.Path) -> None:
    with (sweep / "sweep.jsonl").open("a") as file:
        for name in ("later", "never"):
            file.write(json.dumps({"setting": name, "overrides": {}, "paper": None}) + "\n")
    study = read_study(sweep)
    assert list(study.settings) == list(study.seeds) == list(TOP1)
    assert study.note == "Mind. Not run: later, never."


def test_differences_are_paired_by_seed(sweep: pathlib.Path) -> None:
    study = read_study(sweep)
    small = paired_difference(study.done("small"), study.done("base"))
    assert small is not None
    # -10, -9, -11: mean -10, standard deviation 1, t(0.975, 2) = 4.3027.
    assert small.mean == pytest.approx(-10)
    assert small.half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    wide = paired_difference(study.done("wide|<b>"), study.done("base"))
    assert wide is not None
    assert wide.pairs == 2  # of the third seed one run failed
    assert wide.mean == pytest.approx(1.5)
    back = paired_difference(study.done("base"), study.done("wide|<b>"))
    assert back is not None
    assert (back.pairs, back.mean) == (2, pytest.approx(-1.5))
    assert paired_difference(study.done("odd"), study.done("base")) is None


def test_rank_correlation_is_of_the_means(sweep: pathlib.Path) -> None:
    ranks = rank_correlation(read_study(sweep))
    assert ranks is not None
    assert ranks.settings == 3
    assert ranks.rho == pytest.approx(
        0.5
    )  # ours: small, base, wide; the paper's: small, wide, base


def test_training_time_leaves_out_the_waiting(sweep: pathlib.Path) -> None:
    run = read_study(sweep).done("base")[0]
    assert run.seconds == pytest.approx(2 * (80 / 40 - 0.5))


def test_csv_files_hold_the_numbers(sweep: pathlib.Path) -> None:
    folder = write_report([sweep])
    settings = list(csv.DictReader(io.StringIO((folder / "settings.csv").read_text())))
    assert [row["setting"] for row in settings] == list(TOP1)
    assert float(settings[0]["accuracy_top1_mean"]) == 81.0
    assert float(settings[0]["accuracy_top1_std"]) == 1.0
    assert settings[0]["paper_parameters"] == "4.3M"
    runs = list(csv.DictReader(io.StringIO((folder / "runs.csv").read_text())))
    assert [row["status"] for row in runs] == ["done"] * 8 + ["failed", "unfinished"]
    assert runs[0]["commit"] == "0123abc"
    assert runs[8]["error"].startswith("train/loss is nan")


def test_page_is_one_file_and_well_formed(sweep: pathlib.Path) -> None:
    page = (write_report([sweep]) / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    for outside in ("http://", "https://", "<script", "<link", 'src="/', "url("):
        assert outside not in page
    assert "wide|&lt;b&gt;" in page
    assert "wide|<b>" not in page
    for tag in ("table", "section", "details", "tr", "td", "th", "dl", "ol", "p", "div"):
        assert page.count(f"<{tag}>") + page.count(f"<{tag} ") == page.count(f"</{tag}>"), tag


def test_plots_show_every_setting_and_the_paper(sweep: pathlib.Path) -> None:
    folder = write_report([sweep])
    for name in ("width_settings.png", "width_curves.png"):
        with Image.open(folder / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50, name
        assert (pixels == 255).all(axis=1).mean() > 0.5, name
    from s2mlp_jax.report import plots

    study = read_study(sweep)
    ours, papers = plots.settings(study).axes
    assert [label.get_text() for label in ours.get_yticklabels()] == list(TOP1)
    drawn = [tuple(line.get_xdata()) for line in papers.lines]
    assert drawn == [(row["top1"],) for row in PAPER.values()]
    accuracy, loss = plots.curves(study).axes
    assert list(accuracy.lines[0].get_xdata()) == [1.0, 2.0]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [40.5, 81.0])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1.6, 1.1])


def test_runs_of_main_and_sweeps_together(sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "alone", 4, 0.5)
    write_json(tmp_path / "alone/config.json", {"model": {"name": "s2mlp_tiny"}, "seed": 4})
    folder = write_report([sweep, tmp_path / "alone"], tmp_path / "both")
    text = (folder / "report.md").read_text()
    assert "## Run alone" in text
    assert "| alone | 50.00 | 75.00 | " in text


def test_a_report_needs_no_jax(sweep: pathlib.Path) -> None:
    code = (
        "import sys; sys.modules.update(jax=None, flax=None, tensorflow=None);"
        "from s2mlp_jax.report.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| small | 81.00 ± 1.00 | 90.50 ± 0.50 | -10.00 ± 2.48 |" in done.stdout
    assert "report.html" in done.stdout


def test_mistakes_are_named(
    sweep: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(sweep), str(tmp_path / "empty")]) == 2
    assert (
        "empty is not the folder of a sweep or the folder of a run: it holds none of config"
        in capsys.readouterr().err
    )
    assert main([str(sweep), str(sweep), f"--output={tmp_path}/r"]) == 2
    assert "Two folders are named width" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
