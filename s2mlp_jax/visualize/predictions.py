"""The predictions of a checkpoint for every image of the evaluation split."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np

from s2mlp_jax.data.on_device import normalize
from s2mlp_jax.data.views import read_eval_view
from s2mlp_jax.train.devices import shard_batch
from s2mlp_jax.train.experiment import Experiment
from s2mlp_jax.train.restore import Restored


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One entry per image, in the order of the split, each image once.

    Attributes:
      index: position in the split; broken images that evaluation skips are missing.
      label: the true class.
      predicted: the class of the largest logit; with equal logits, the lower class.
      probability: probability of the predicted class, in [0, 1].
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    def accuracy(self) -> str:
        """Returns the accuracy as text, such as "97.22% correct: 350 of 360"."""
        correct, count = int((self.predicted == self.label).sum()), len(self.label)
        return f"{correct / count:.2%} correct: {correct:,} of {count:,}"


def predict(restored: Restored) -> Predictions:
    """Predicts the classes of the evaluation split.

    Raises:
      ValueError: if the logits of an image are NaN.
    """
    run = restored.run
    mean, std = run.options.data.mean, run.options.data.std

    def step(variables: typing.Any, images: jax.Array) -> dict[str, jax.Array]:
        variables = run.layout.gather(variables)
        logits = run.model.apply(variables, normalize(images, mean, std), train=False)
        return {
            "predicted": jnp.argmax(logits, axis=-1),
            "probability": jnp.max(jax.nn.softmax(logits), axis=-1),
        }

    jitted = jax.jit(
        step, in_shardings=(None, run.layout.batch), out_shardings=run.layout.replicated
    )
    fields = dataclasses.fields(Predictions)
    parts: dict[str, list[np.ndarray]] = {field.name: [] for field in fields}
    start = 0
    for batch in run.eval_batches():
        images = shard_batch(run.layout, {"image": batch["image"]})["image"]
        said = jitted(restored.variables, images)
        real = np.flatnonzero(batch["mask"])
        found = {"index": start + np.arange(len(batch["mask"])), "label": batch["label"]}
        for name, value in {**found, **jax.device_get(said)}.items():
            parts[name].append(value[real])
        start += len(batch["mask"])
    result = Predictions(**{name: np.concatenate(part) for name, part in parts.items()})
    if unclear := int(np.isnan(result.probability).sum()):
        raise ValueError(
            f"The logits of {unclear:,} images are NaN at step {restored.step}: no predictions."
        )
    return result


def eval_image(run: Experiment, index: int) -> tuple[np.ndarray, int]:
    """Returns an image of the evaluation split, resized and cropped as in evaluation.

    Args:
      index: position of the image in the split.

    Returns:
      The image (image_size, image_size, channels) uint8, and its class.

    Raises:
      ValueError: if the index is out of range, or the image broken.
    """
    split = run.eval_split
    if not 0 <= index < len(split):
        raise ValueError(
            f"There is no image {index} in {split.name}. Allowed are 0 to {len(split) - 1}."
        )
    record = split.source[index]
    view = read_eval_view(record, split.channels, split.name, run.options.data)
    return view, int(record["label"])
