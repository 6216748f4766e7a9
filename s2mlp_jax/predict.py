"""Predicts the classes of images, with their probabilities.

  python -m s2mlp_jax.predict MODEL image.jpg folder/ ...
  python -m s2mlp_jax.predict MODEL folder/ --format=jsonl > predictions.jsonl

MODEL is the folder of a run of main.py, or one that `python -m s2mlp_jax.export` wrote. Images are
preprocessed as in the evaluation. A file that is not an image is reported and skipped. Exit codes:
0 done; 2 bad input; 4 some files were no images, the others are done.
"""

import collections
import concurrent.futures
import csv
import itertools
import os
import pathlib
import sys
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.data.decoding import BrokenImageError
from s2mlp_jax.data.image_files import find_files
from s2mlp_jax.escape import json_line, printable
from s2mlp_jax.progress import plural
from s2mlp_jax.saved.model_options import add_model_options, load_model
from s2mlp_jax.saved.preprocessing import Preprocessing
from s2mlp_jax.saved.pretrained import Pretrained, compiled

FORMATS: tuple[str, ...] = ("table", "jsonl", "csv")


class Prediction(typing.NamedTuple):
    """A model's prediction for a file.

    Attributes:
      classes: class indices, most likely first; empty if the file is not an image.
      probabilities: probabilities of these classes.
      error: why the file is not an image; "" if it is one.
    """

    file: pathlib.Path
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    error: str


def predict(
    pretrained: Pretrained,
    files: Iterable[pathlib.Path],
    top: int = 5,
    batch_size: int = 64,
    num_threads: int = 16,
) -> Iterator[Prediction]:
    """Yields a prediction for each file, in order; the number of files is not limited.

    Args:
      pretrained: from `s2mlp_jax.load`.
      files: image files.
      top: number of classes per prediction.
      batch_size: images per batch; the last batch is padded.
      num_threads: number of threads that read and decode.
    """
    preprocess = pretrained.preprocess
    classify = compiled(pretrained)
    files = iter(files)
    with concurrent.futures.ThreadPoolExecutor(num_threads, "images") as pool:

        def read_batch() -> list[tuple[pathlib.Path, concurrent.futures.Future[typing.Any]]]:
            chunk = itertools.islice(files, batch_size)
            return [(file, pool.submit(_read, preprocess, file)) for file in chunk]

        # Two batches are read ahead while the previous one is classified.
        ahead = collections.deque([read_batch(), read_batch()])
        while batch := ahead.popleft():
            ahead.append(read_batch())
            read = [(file, future.result()) for file, future in batch]
            pixels = [found for _, found in read if isinstance(found, np.ndarray)]
            rows = iter(classify(_filled(pixels, batch_size, preprocess)) if pixels else ())
            for file, found in read:
                if isinstance(found, str):
                    yield Prediction(file, (), (), found)
                    continue
                logits = next(rows)
                # A stable sort of the logits: ties go to the lower class, as in the evaluation.
                best = np.argsort(-logits, kind="stable")[:top]
                e = np.exp(logits.astype(np.float64) - logits.max())
                shares = e / e.sum()
                yield Prediction(file, tuple(map(int, best)), tuple(map(float, shares[best])), "")


def _filled(images: list[np.ndarray], batch_size: int, preprocess: Preprocessing) -> np.ndarray:
    """Pads the images with black ones to a full batch: one shape, compiled once."""
    size = preprocess.image_size
    batch = np.zeros((batch_size, size, size, preprocess.channels), np.uint8)
    for row, image in zip(batch, images, strict=False):
        row[...] = image
    return batch


def _read(preprocess: Preprocessing, file: pathlib.Path) -> np.ndarray | str:
    """Returns a file's pixels, or the reason why it cannot be read."""
    try:
        return preprocess.pixels(file)
    except BrokenImageError as error:
        return error.reason


def _writer(how: str, names: Sequence[str], top: int) -> Callable[[Prediction], None]:
    """Returns a function that writes one prediction to standard output."""
    table = csv.writer(sys.stdout)
    if how == "csv":
        columns = ((f"class_{i}", f"probability_{i}") for i in range(1, top + 1))
        table.writerow(["file", *itertools.chain(*columns), "error"])

    def write(prediction: Prediction) -> None:
        file, classes, probabilities, error = prediction
        shares = [f"{p:.6f}" for p in probabilities]
        named = [names[c] for c in classes]
        if how == "jsonl":
            found = [
                {"class": name, "index": c, "probability": p}
                for name, c, p in zip(named, classes, probabilities, strict=True)
            ]
            line = {"file": str(file), **({"error": error} if error else {"predictions": found})}
            print(json_line(line))
        elif how == "csv":
            pairs = itertools.chain(*zip(named, shares, strict=True))
            row = [file, *pairs, *[""] * (2 * (top - len(named))), error]
            table.writerow(map(printable, row))
        elif not error:
            parts = [f"{n} {p:.1%}" for n, p in zip(named, probabilities, strict=True)]
            print(printable(f"{file}  {'  '.join(parts)}"))

    return write


def _parser() -> Parser:
    parser = Parser(prog="python -m s2mlp_jax.predict", description=__doc__)
    add_model_options(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images, or folders of images")
    parser.add_argument("--format", default="table", choices=FORMATS)
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes to print"
    )
    parser.add_argument("--batch_size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--num_threads", type=int, default=16, metavar="N", help="threads that decode images"
    )
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parser().parse_args(arguments)
    logging.set_verbosity(logging.ERROR)  # Orbax logs a lot
    for name in ("top", "batch_size", "num_threads"):
        if getattr(flags, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(flags, name)}.")
    files = list(find_files(flags.paths))
    if not files:
        raise ValueError(f"There are no files in {', '.join(flags.paths)}.")
    pretrained = load_model(flags)
    top = min(flags.top, pretrained.model.num_classes)
    write = _writer(flags.format, pretrained.class_names, top)
    failed, started = 0, time.perf_counter()
    batch_size = min(flags.batch_size, len(files))
    predictions = predict(pretrained, files, top, batch_size, flags.num_threads)
    # No progress bar on a terminal that also shows the predictions: their lines would break it.
    quiet = True if sys.stdout.isatty() else None
    for prediction in tqdm(predictions, total=len(files), unit="image", disable=quiet):
        write(prediction)
        if prediction.error:
            failed += 1
            said = f"No image: {prediction.file}: {prediction.error}"
            tqdm.write(printable(said), file=sys.stderr)
    seconds = time.perf_counter() - started
    done = len(files) - failed
    print(
        f"{plural(done, 'image')} in {seconds:.1f} s, {done / seconds:,.1f} images/s"
        + (f"; {plural(failed, 'file')} could not be read as images" if failed else ""),
        file=sys.stderr,
    )
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        code = 0
    sys.exit(code)
