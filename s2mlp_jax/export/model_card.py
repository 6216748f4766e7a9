"""The model card: a folder's README.md, in the format of model hubs."""

import json
import typing
from collections.abc import Iterator

from s2mlp_jax.data.views import eval_short_side
from s2mlp_jax.escape import code, markdown, printable
from s2mlp_jax.saved.model_folder import ModelFolder
from s2mlp_jax.saved.untrusted import check_kind

LICENSE = "apache-2.0"  # licence of this code; the owner of weights chooses theirs
_SPLIT: dict[str, typing.Any] = {"name": str, "images": int}
_TRAINING: dict[str, typing.Any] = {
    "data": {"train": _SPLIT, "eval": _SPLIT},
    "step": int,
    "epoch": float,
    "finished": bool,
    "weights": str,
    "parameters": int,
    "macs": int,
    "recipe": {"train.steps": int},
    "evaluation": dict,
    "environment": dict,
}
_EVALUATION = dict.fromkeys(("accuracy_top1", "accuracy_top5", "loss", "count"), float)
_ENVIRONMENT: dict[str, typing.Any] = {
    "git_commit": str,
    "python": str,
    "versions": dict,
    "processor": str,
    "devices": [str],
    "processes": int,
}
_PAPER = "https://arxiv.org/abs/2106.07477"


def write_card(content: ModelFolder, title: str, usage: str, license_name: str = LICENSE) -> str:
    """Returns the model card in Markdown.

    Args:
      title: title of the model.
      usage: how these files are used, in Markdown; FOLDER stands for the folder.
      license_name: licence of the weights, as hubs write it: "apache-2.0", "cc-by-4.0", ...

    Raises:
      ValueError: the training record is not one that `from_run` made.
    """
    check_training(content.training)
    return "\n".join(
        [
            *_front_matter(content, title, license_name),
            f"# {markdown(title)}",
            "",
            *_summary(content),
            "",
            "## Use",
            "",
            usage.strip().replace("FOLDER", printable(title)),
            "",
            *_preprocessing(content),
            *_training(content.training),
            "## Licence",
            "",
            f"{markdown(license_name)}. What the data may be used for is for their own licence to "
            "say.",
            "",
        ]
    )


def check_training(training: dict[str, typing.Any]) -> None:
    """Checks what the card reads of a training record, which may come from a stranger's folder.

    Raises:
      ValueError: the message names the field.
    """
    if not training:
        return
    check_kind(training, _TRAINING, "training in config.json")
    for name, kinds in (("evaluation", _EVALUATION), ("environment", _ENVIRONMENT)):
        if training[name]:
            check_kind(training[name], kinds, f"training in config.json: {name}")
    for name, version in training["environment"].get("versions", {}).items():
        check_kind(version, str, f"training in config.json: environment: versions: {name}")


def _front_matter(content: ModelFolder, title: str, license_name: str) -> Iterator[str]:
    """Yields the YAML that hubs read."""
    yield "---"
    yield f"license: {_quoted(license_name)}"
    yield "library_name: s2mlp_jax"
    yield "pipeline_tag: image-classification"
    yield "tags: [image-classification, s2mlp, jax, flax]"
    if content.training:
        data = content.training["data"]
        if dataset := _dataset(data["train"]["name"]):
            yield f"datasets: [{_quoted(dataset)}]"
        if evaluation := content.training["evaluation"]:
            yield "metrics: [accuracy]"
            yield "model-index:"
            yield f"  - name: {_quoted(title)}"
            yield "    results:"
            yield "      - task: {type: image-classification}"
            yield "        dataset:"
            yield f"          name: {_quoted(data['eval']['name'])}"
            yield f"          type: {_quoted(_dataset(data['eval']['name']) or 'image-folder')}"
            yield "        metrics:"
            yield f"          - {{type: accuracy, value: {evaluation['accuracy_top1']}}}"
    yield "---"
    yield ""


def _quoted(text: str) -> str:
    """Quotes a string for YAML; JSON strings are valid YAML."""
    return printable(json.dumps(text, ensure_ascii=False))


def _dataset(split: str) -> str:
    """Returns the data set in a split name such as "cifar10/3.0.2 train"; "" for a folder."""
    return "" if split.startswith("folder:") else split.split("/")[0].split(" ")[0]


def _summary(content: ModelFolder) -> Iterator[str]:
    weights, training = content.weights, content.training
    size, trained_at = content.preprocessing.image_size, weights.image_size
    yield (
        f"`{weights.name}` for images of {size}x{size} pixels and {weights.num_classes} classes, "
        f"by s2mlp_jax: [S²-MLP]({_PAPER}) and its relatives in JAX."
    )
    if not training:
        yield "How it was trained was not noted."
        return
    yield (
        f"It has {training['parameters']:,} parameters and takes {training['macs']:,} "
        "multiply-accumulates per image."
    )
    if size != trained_at:
        yield (
            f"It was trained at {trained_at}x{trained_at} pixels; the multiply-accumulates, and "
            "the figures below, are of that size."
        )
    evaluation = training["evaluation"]
    if not evaluation:
        yield "These weights were not evaluated."
        return
    yield ""
    yield "| data | images | top-1 | top-5 | loss |"
    yield "|---|---:|---:|---:|---:|"
    yield (
        f"| {markdown(training['data']['eval']['name'])} | {evaluation['count']:,} | "
        f"{evaluation['accuracy_top1']:.2%} | {evaluation['accuracy_top5']:.2%} | "
        f"{evaluation['loss']:.4f} |"
    )


def _preprocessing(content: ModelFolder) -> Iterator[str]:
    how = content.preprocessing
    turned = f"turned by {how.rotate} degrees counter-clockwise, " if how.rotate else ""
    short_side = eval_short_side(how.image_size, how.crop_ratio)
    yield (
        f"Images are {turned}resized ({how.interpolation}, antialiased) to a short side of "
        f"{short_side} pixels, cut to the central "
        f"{how.image_size}x{how.image_size}, and normalised by (x / 255 - mean) / std, with mean "
        f"{_numbers(how.mean)} and std {_numbers(how.std)}: `preprocessing.json`."
    )
    yield ""


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _training(training: dict[str, typing.Any]) -> Iterator[str]:
    if not training:
        return
    data, environment = training["data"], training["environment"]
    yield "## Training"
    yield ""
    averaged = ", averaged weights" if training["weights"] == "average" else ""
    left = "" if training["finished"] else ", which is not the end of the run"
    yield (
        f"{markdown(data['train']['name'])}, {data['train']['images']:,} images, "
        f"{training['epoch']:.1f} epochs: step {training['step']:,}{averaged}{left}."
    )
    yield ""
    yield "| field | value |"
    yield "|---|---|"
    recipe = training["recipe"]
    instead = "train.epochs" if recipe["train.steps"] else "train.steps"  # the unused one
    for field, value in recipe.items():
        if field != instead and value != "":
            yield f"| {code(field)} | {markdown(value)} |"
    yield ""
    if not environment:
        return
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    about = f"Commit {environment['git_commit']}; Python {environment['python']}, {versions}."
    yield markdown(about)
    yield markdown(
        f"Hardware: {', '.join(sorted(set(environment['devices'])))} "
        f"({len(environment['devices'])}), {environment['processor']}, "
        f"{environment['processes']} process(es)."
    )
    yield ""
