"""Every field of a config declares its values; any other value is refused by the field's name."""

import dataclasses
import functools
import math
import re
import sys
import time
import typing
from collections.abc import Iterator

import ml_collections
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from s2mlp_jax import config as config_lib
from s2mlp_jax.checks import Choices, Range, Rule, rules, shown
from s2mlp_jax.cli import is_mistake
from s2mlp_jax.data import sources
from s2mlp_jax.models.mixers import MIXERS
from s2mlp_jax.models.variant import Variant
from s2mlp_jax.options import ModelOptions, Options
from s2mlp_jax.train.create import create_experiment
from tests.helpers import ROOT, tiny_config

DIGITS = str(ROOT / "configs/s2mlp_digits.py")
SECONDS = 2.0  # within which a value is refused

# Of every type, for every field.
NASTY: tuple[typing.Any, ...] = (
    *(None, True, {}, object(), b"x", 1j),
    *(-1, 0, 2**31, 10**18, 10**400, 10**5000),
    *(-0.001, 0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan),
    *("", "x", "nan", "a\nb", "\0", "a" * 100_000),
    *((), (math.nan,), (-1.0,), ("x",), (None,), ((1,),), (1, 2, 3), (1,) * 1000, [-1]),
)


class Field(typing.NamedTuple):
    """A field of a config."""

    mixer: str  # of the config in which it is changed
    name: str  # "optimizer.beta1"
    kind: typing.Any  # its type
    rule: Rule | None  # what it declares


def fields_of(options: type, group: str, mixer: str = "shift") -> Iterator[Field]:
    """Yields the fields of a dataclass of the options, and of those in it."""
    kinds, declared = typing.get_type_hints(options), rules(options)
    for field in dataclasses.fields(options):
        kind = kinds[field.name]
        if kind is Variant:
            yield from fields_of(Variant, group)
            for name, cls in MIXERS.items():
                yield from (f for f in fields_of(cls, group, name) if own(cls, f.name))
        elif dataclasses.is_dataclass(kind):
            yield from fields_of(typing.cast(type, kind), f"{field.name}.")
        elif field.name != "mixer_fields":  # these have names of their own
            yield Field(mixer, f"{group}{field.name}", kind, declared.get(field.name))


def own(mixer: typing.Any, field: str) -> bool:
    return field.removeprefix("model.") in mixer.field_types


FIELDS = list(fields_of(Options, ""))
assert ModelOptions  # its hints are read above


@functools.cache
def base(mixer: str) -> ml_collections.ConfigDict:
    """Returns a small config with a mixer, of which one field is changed at a time."""
    needed = {"permute": {"model.segments": 4}}.get(mixer, {})
    return config_lib.load_config(DIGITS, {"model.mixer": mixer, **needed})


def fits(field: Field, value: typing.Any) -> bool:
    """Returns whether a field's type and declaration allow a value."""
    if value is None:
        return field.name.startswith("model.") and field.name != "model.name"  # the variant's
    if typing.get_origin(field.kind) is tuple:
        entries = value if isinstance(value, tuple | list) else ()
        number = typing.get_args(field.kind)[0]
        return (
            isinstance(value, tuple | list)
            and len(entries) <= 16
            and all(fits(field._replace(kind=number), x) and x is not None for x in entries)
        )
    kinds = (int, float) if field.kind is float else (field.kind,)
    return type(value) in kinds and (field.rule is None or not field.rule.wrong(value))


def try_value(field: Field, value: typing.Any) -> bool:
    """Sets a field and returns whether the value is accepted; asserts that all is as promised."""
    start, refused = time.process_time(), None
    try:
        config = config_lib.override(base(field.mixer), {field.name: value})
        config_lib.to_options(config).make_model(10)
    except ValueError as error:
        refused = error
    assert time.process_time() - start < SECONDS
    if refused is None:
        assert fits(field, value)
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int | float):
                assert 0 <= number < math.inf  # no field may be negative, NaN or infinite
        return True
    message = str(refused)
    assert is_mistake(refused), message
    if fits(field, value):  # but not beside the others: one of them may be named
        assert any(f.name in message for f in FIELDS), message
    else:
        leaf = field.name.removeprefix("model.")
        assert field.name in message or re.search(rf"\bmodel\..*\b{leaf}\b", message), message
    assert len(message) < 1000
    assert "\n" not in message
    return False


def ends(field: Field) -> Iterator[tuple[typing.Any, bool]]:
    """Yields the ends of a field's interval, what is beyond them, and whether they are allowed."""
    if not isinstance(field.rule, Range) or typing.get_origin(field.kind) is tuple:
        return
    interval = field.rule.interval
    for end, side in zip(interval[1:-1].split(", "), (-math.inf, math.inf), strict=True):
        number, _, power = end.partition("^")
        value = field.kind(float(number) ** int(power or 1))
        yield value, (interval[0] == "[" if side < 0 else interval[-1] == "]")
        beyond = value + int(math.copysign(1, side)) if field.kind is int else 0
        yield beyond or math.nextafter(value, side), False


def test_every_field_of_a_config_declares_its_values() -> None:
    undeclared = [f.name for f in FIELDS if f.kind is not bool and f.rule is None]
    assert not undeclared
    assert {f.name for f in FIELDS} == config_lib.flatten(base("shift").to_dict()).keys()
    assert len(FIELDS) > 80


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.mixer}-{field.name}")
def test_a_value_is_refused_by_name_or_declared(field: Field) -> None:
    tried = {bool(try_value(field, value)) for value in NASTY}
    assert False in tried
    for value, allowed in ends(field):
        assert not try_value(field, value) or allowed, value
    if isinstance(field.rule, Choices):
        allowed = [value for value in field.rule.allowed if try_value(field, value)]
        assert allowed or field.name == "model.downsample"  # which one stage does not read


NUMBERS = st.floats() | st.integers(-(2**200), 2**200)
VALUES = NUMBERS | st.text() | st.booleans() | st.none() | st.binary()
VALUES |= st.lists(NUMBERS | st.text(max_size=3), max_size=20).map(tuple)


@settings(derandomize=True, database=None, deadline=None, max_examples=600)
@given(st.sampled_from(FIELDS), VALUES)
def test_any_value_is_refused_by_name_or_declared(field: Field, value: typing.Any) -> None:
    try_value(field, value)


@pytest.mark.parametrize("group", ["model", "data", "train", "optimizer", "eval"])
@pytest.mark.parametrize("value", [None, 5, "x", (), math.nan])
def test_a_group_is_not_replaced(group: str, value: typing.Any) -> None:
    with pytest.raises(ValueError, match=f"config.{group} ") as error:
        config_lib.override(base("shift"), {group: value})
    assert is_mistake(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("optimizer.grad_clip_norm=-1", "optimizer.grad_clip_norm must be in [0, 1e38], got -1.0."),
        ("optimizer.learning_rate=-0.001", "optimizer.learning_rate must be in [0, 1e38], got"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate must be in [0, 1e38], got inf."),
        ("optimizer.learning_rate=True", "config.optimizer.learning_rate is of type float"),
        ("optimizer.beta1=2", "optimizer.beta1 must be in [0, 1), got 2.0."),
        ("optimizer.beta2=1", "optimizer.beta2 must be in [0, 1), got 1.0."),
        ("optimizer.eps=-1", "optimizer.eps must be in [1e-30, 1], got -1.0."),
        ("optimizer.eps=nan", "optimizer.eps must be in [1e-30, 1], got nan."),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay must be in [0, 1e38], got -1.0."),
        (
            "optimizer.final_learning_rate=-inf",
            "optimizer.final_learning_rate must be in [0, 1e38]",
        ),
        ("data.repeats=1000", "data.repeats 1000, the views of an image in a batch, is greater"),
        ("data.name=", "data.name must not be empty."),
        ("data.mean=('x',)", "config.data.mean is of type tuple of numbers, got ('x',)."),
        ("data.mean=(nan,)", "config.data.mean is of type tuple of numbers, got ('(nan,)',)."),
        ("data.mean=(1e999,)", "data.mean[0] must be in [0, 1], got inf."),
        ("data.std=(0,)", "data.std[0] must be in [0.001, 1000], got 0.0."),
        ("data.mean=()", "data.mean () and data.std (0.38,) differ in length."),
        ("data.prefetch=1000000000000000000", "data.prefetch must be in [1, 1024], got 10000"),
        ("data.image_size=2147483648", "data.image_size must be in [1, 8192], got 2147483648."),
        ("model.depth=1000000", "model.depth must be in [1, 1000], got 1000000."),
        ("model.norm_eps=-1", "model.norm_eps must be in [1e-30, 1], got -1.0."),
        ("model.mixer=shfit", "model.mixer 'shfit' is unknown. Allowed are shift, depthwise"),
        ("train.epochs=nan", "train.epochs must be in [0, 1e6], got nan."),
        ("train.epochs=inf", "train.epochs must be in [0, 1e6], got inf."),
        ("train.epochs=0", "train.steps or train.epochs must be greater than 0, both are 0."),
        ("train.dtype=flaot32", "Allowed are float32, bfloat16. Did you mean 'float32'?"),
        (
            "checkpoint.every_epochs=nan",
            "checkpoint.every_epochs must be in [1e-6, 1e12], got nan.",
        ),
        ("eval.every_epochs=inf", "eval.every_epochs must be in [1e-6, 1e12], got inf."),
    ],
)
def test_values_on_the_command_line(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As main.py reads them: parsed by ml_collections, completed in the run."""
    argv = ["main.py", f"--config.{argument}"]
    monkeypatch.setattr(sys, "argv", argv)  # from which the flags of the fields are made
    values = flags.FlagValues()
    config = config_lib.load_config(DIGITS)
    config_flags.DEFINE_config_dict("config", config, flag_values=values)

    def read() -> None:
        try:
            values(argv)
        except flags.Error as error:
            raise ValueError(
                config_lib.explain_flags([*argv, f"--config={DIGITS}"], error)
            ) from error
        config_lib.complete(config)

    with pytest.raises(ValueError, match=re.escape(message)):
        read()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"train.batch_size": 2048, "train.steps": 0},
            "train.batch_size 2048 is greater than the number of training images: digits/1.0.0 "
            "train has 1437.",
        ),
        (
            {"train.steps": 0, "train.epochs": 3.0, "optimizer.warmup_epochs": 5.0},
            "optimizer.warmup_epochs 5.0 is 449 steps, but the whole run has 269. Lower "
            "optimizer.warmup_epochs, or raise train.epochs.",
        ),
        (
            {"train.steps": 12, "optimizer.warmup_epochs": 5.0},
            "but the whole run has 12. Lower optimizer.warmup_epochs, or raise train.steps.",
        ),
        (
            {"train.steps": 0, "train.epochs": 1e-3},
            "train.epochs 0.001 of 1,437 images, in batches of train.batch_size 16, is 0 steps.",
        ),
        ({"data.train_split": "train[5:3]"}, "The split 'train[5:3]' of digits is empty."),
        ({"data.name": "synthetic", "data.eval_split": "test[3:3]"}, "'test[3:3]' of synthetic is"),
        ({"data.name": "a b"}, "Data set 'a b': a name has the form NAME, NAME/CONFIG or NAME:"),
    ],
)
def test_what_the_data_do_not_allow_is_blamed_on_its_field(
    fields: dict[str, typing.Any], message: str
) -> None:
    config = config_lib.override(tiny_config(), fields)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        create_experiment(config)
    assert is_mistake(error.value)


def test_more_steps_than_are_counted() -> None:
    options = config_lib.to_options(tiny_config(train__steps=0, train__epochs=1e6))
    with pytest.raises(ValueError, match=r"train.epochs 1000000.0 of 1,281,167 images.*2\^31 - 1"):
        options.count_steps(1_281_167)
    assert options.count_steps(1437)[0] == 89_812_500


def test_a_learning_rate_of_zero_is_allowed() -> None:
    """A run that only measures: its weights stay as they are."""
    assert try_value(next(f for f in FIELDS if f.name == "optimizer.learning_rate"), 0)


def test_long_values_are_cut_in_messages() -> None:
    assert shown("a" * 10_000) == f"'{'a' * 199}..."
    assert shown(10**5000) == "a number of thousands of digits"
    with pytest.raises(ValueError, match="Data set ':'"):
        sources.open_split(":", "train")
