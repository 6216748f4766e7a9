"""Half of CIFAR-10's classes, learned from a model of the other half, and from scratch.

first.txt has the names of five classes, one per line, and second.txt those of the others.

python -m s2mlp_jax.data.prepare cifar10_first --source=cifar10 --wnids=first.txt
python -m s2mlp_jax.data.prepare cifar10_second --source=cifar10 --wnids=second.txt
python main.py --config=configs/compare.py:cifar10_small --workdir=FIRST \
    --config.data.name=cifar10_first --config.train.epochs=6.0 \
    --config.optimizer.warmup_epochs=0.5
python -m s2mlp_jax.sweep --config=configs/transfer.py:FIRST --workdir=... --seeds=3
"""

import typing

import ml_collections

from configs import compare


def get_config(model: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe, which is the same from scratch and from the model (a run folder)."""
    config = compare.get_config("cifar10_small")
    config.data.name = "cifar10_second"
    return config


def sweep(model: str = "") -> dict[str, dict[str, typing.Any]]:
    """Returns the settings: from scratch, and three ways to start from the model.

    Raises:
      ValueError: no model is given.
    """
    if not model:
        raise ValueError("configs/transfer.py:MODEL needs the folder of a model to start from.")
    smaller = {"optimizer.learning_rate": 5e-4, "optimizer.layer_decay": 0.8}
    return {
        "scratch": {},
        "from-model": {"init_from": model},
        # As in configs/finetune.py; a quarter of the rate.
        "smaller-rate": {"init_from": model, **smaller},
        "head-alone": {"init_from": model, "freeze": "[!h]*"},
    }


def table(model: str = "") -> dict[str, typing.Any]:
    return {
        "title": "From half of CIFAR-10's classes to the other half",
        "baseline": "scratch",
        "rows": {},
        "note": "The same steps of the same images. smaller-rate: a quarter of the learning rate, "
        "and 0.8 of it for each block further from the head. head-alone: all else is frozen.",
    }
