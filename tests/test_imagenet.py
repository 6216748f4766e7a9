"""docs/imagenet.md by its commands, from the tars on; only the models are small."""

import json
import pathlib
import re
import signal

import pytest

from tests.helpers import assert_same_run
from tests.test_cli import finish, main, start, wait_for
from tests.test_prepare import prepare_oddities

pytestmark = pytest.mark.slow

STEPS, BATCH = 12, 6
SMALL = {
    "model.depth": 1,
    "model.dim": 16,
    "train.batch_size": BATCH,
    "train.steps": STEPS,
    "train.ema_decay": 0.9,
    "optimizer.warmup_epochs": 2.0,
    "eval.every_epochs": 1e3,
    "checkpoint.every_epochs": 1e3,
    "log.every_steps": 1,
    "log.tensorboard": False,
    "data.num_threads": 2,
    "data.on_corrupt": "skip",  # one of the images is cut off
}


def test_train_stop_resume_and_evaluate(tmp_path: pathlib.Path) -> None:
    """The whole recipe at 224 pixels, every oddity of ImageNet among the images.

    With XLA's defaults: here the steps take longer than the one compilation.
    """
    optimized = {"XLA_FLAGS": ""}
    data = prepare_oddities() / "data"
    config = ["--config=configs/s2mlp_wide.py", f"--config.data.data_dir={data}"]
    config += [f"--config.{field}={value}" for field, value in SMALL.items()]

    whole = start(*config, f"--workdir={tmp_path}/whole", **optimized)
    begun = wait_for(whole, "compiled")  # the others take the program from the cache
    stopped = start(*config, f"--workdir={tmp_path}/stopped", **optimized)
    wait_for(stopped, r"^step 3/")
    stopped.send_signal(signal.SIGTERM)
    code, output = finish(stopped)
    assert code == 75, output
    code, output = main(*config, f"--workdir={tmp_path}/stopped", **optimized)
    assert code == 0, output
    assert re.search(r"resume    from step ([3-9]|[12]\d) *$", output, re.M), output
    code, uninterrupted = finish(whole)
    uninterrupted = begun + uninterrupted
    assert code == 0, uninterrupted
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")

    # Three views of two images a step: in three rounds over 7 images and a part of the fourth the
    # broken one comes up 3 or 4 times, also after a resumption.
    told = r"data +(\d+) broken training images were left out"
    counts = {int(re.search(told, text)[1]) for text in (output, uninterrupted)}  # type: ignore[index]
    assert len(counts) == 1
    assert counts <= {9, 12}

    # Evaluation: each image once, the parameters and their average, at another size.
    larger = "--config.data.image_size=288"
    code, output = main("--mode=eval", f"--workdir={tmp_path}/whole", *config, larger, **optimized)
    assert code == 0, output
    result = json.loads((tmp_path / "whole" / "eval.jsonl").read_text().splitlines()[-1])
    for weights in ("eval", "eval_ema"):
        assert result[f"{weights}/count"] == 2
