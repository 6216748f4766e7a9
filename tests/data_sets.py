"""Small stand-ins for the data sets that the configs name, made of real photographs.

`python -m tests.data_sets FOLDER` prepares sets of the names, features and files of cifar10 and
imagenet2012 from the two photographs that come inside scikit-learn.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator

IMAGENET_TRAIN, IMAGENET_VALIDATION = 24, 10
CIFAR_TRAIN, CIFAR_TEST = 40, 21


def prepare_in_subprocess(folder: str) -> None:
    """TensorFlow stays out of the tests' own process."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.data_sets", folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def main(folder: str) -> None:
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image) for image in load_sample_images().images]  # 427x640

    def crops(count: int, size: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
        rng = np.random.RandomState(seed)
        for i in range(count):
            photograph = photographs[i % len(photographs)]
            top, left = rng.randint(0, 427 - size), rng.randint(0, 640 - size)
            yield i, photograph[top : top + size, left : left + size]

    def jpeg(image: np.ndarray, grey: bool) -> io.BytesIO:
        file = io.BytesIO()
        picture = Image.fromarray(image)
        (picture.convert("L") if grey else picture).save(file, "JPEG")
        file.seek(0)
        return file

    with tfds.core.registered.skip_registration():

        class Cifar10(tfds.image_classification.Cifar10):
            def _split_generators(self, dl_manager):  # noqa: ANN001, ANN202
                return {
                    "train": self._generate_examples(CIFAR_TRAIN),
                    "test": self._generate_examples(CIFAR_TEST),
                }

            def _generate_examples(self, count: int) -> Iterator:
                for i, image in crops(count, 32, count):
                    yield i, {"id": str(i), "image": image, "label": i % 10}

        class Imagenet2012(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("5.1.0")

            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=1000),
                    "file_name": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):  # noqa: ANN001, ANN202
                return {
                    "train": self._generate_examples(IMAGENET_TRAIN),
                    "validation": self._generate_examples(IMAGENET_VALIDATION),
                }

            def _generate_examples(self, count: int) -> Iterator:
                for i, image in crops(count, 260, count):
                    image = image[: 260 - 7 * (i % 5)]  # not all square
                    yield (
                        i,
                        {
                            "image": jpeg(image, grey=i % 6 == 0),
                            "label": i % 7,
                            "file_name": f"{i}.JPEG",
                        },
                    )

    for builder in (Cifar10, Imagenet2012):
        builder(data_dir=folder, file_format="array_record").download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


if __name__ == "__main__":
    main(sys.argv[1])
