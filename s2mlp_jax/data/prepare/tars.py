"""Checks that the two tars of ImageNet-1K are present and complete."""

import dataclasses
import pathlib
import tarfile
import typing

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"

# Bytes, as in TFDS's list of checksums; files in the tar (train: one tar per class); images.
_OFFICIAL = {
    TRAIN: (147_897_477_120, 1_000, 1_281_167),
    VALIDATION: (6_744_924_160, 50_000, 50_000),
}
# A tar ends with two blocks of zeros, padded to about ten kilobytes. An unfinished download
# whose space was reserved also ends with zeros, but with many more.
_LONGEST_END = 1 << 20


@dataclasses.dataclass(frozen=True)
class Contents:
    """Contents of both tars together.

    Attributes:
      size: total size in bytes.
      images: number of images.
    """

    size: int
    images: int


def check_tars(folder: pathlib.Path, allow_other: bool) -> Contents:
    """Checks that both tars are present and complete.

    The official tars are recognized by their sizes, and their lists of files are read. In other
    tars, the lists of the tars inside are read as well.

    Args:
      folder: folder of the tars.
      allow_other: accepts tars that are not the official ones.

    Raises:
      ValueError: a tar is missing, has another size, or is truncated; the message names it.
    """
    missing = [name for name in _OFFICIAL if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} (--manual_dir) lacks {' and '.join(missing)}. Fetch them from "
            "https://image-net.org/download-images, after registering there."
        )
    size = images = 0
    for name, (official_size, official_files, official_images) in _OFFICIAL.items():
        path = folder / name
        length = path.stat().st_size
        if length != official_size and not allow_other:
            raise ValueError(
                f"{path} has {length:,} bytes, the official file has {official_size:,}: "
                f"{'not fetched to its end?' if length < official_size else 'another file?'} "
                "--allow_other_tars admits tars that are not the official ones."
            )
        with path.open("rb") as file:
            members = _members(file, length, str(path))
            if length == official_size and len(members) != official_files:
                raise ValueError(
                    f"{path} holds {len(members):,} files, the official one {official_files:,}. "
                    "Fetch it again."
                )
            if length == official_size:
                count = official_images
            elif name == TRAIN:
                count = _count_in_class_tars(path, members)
            else:
                count = len(members)
        size, images = size + length, images + count
    return Contents(size, images)


def _count_in_class_tars(path: pathlib.Path, members: list[tarfile.TarInfo]) -> int:
    count = 0
    with tarfile.open(path, mode="r:") as tar:
        for member in members:
            part = tar.extractfile(member)
            if part is None:
                raise ValueError(
                    f"{member.name} in {path} is not a file; one tar per class is expected there."
                )
            count += len(_members(part, member.size, f"{member.name} in {path}"))
    return count


def _members(file: typing.IO[bytes], length: int, title: str) -> list[tarfile.TarInfo]:
    """Returns the files listed in a tar, which must be complete up to the zeros at its end."""
    problem = ""
    members, end = [], 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                members.append(member)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except tarfile.TarError as error:
        problem = str(error)
    file.seek(min(end, length))
    if not problem and file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        problem = "it stops without the mark of its end"
    if not problem and length - end > _LONGEST_END:
        problem = "the rest is zeros"
    if problem:
        raise ValueError(
            f"{title} is not a complete tar: readable up to byte {end:,} of {length:,}, "
            f"{len(members):,} files; {problem}. Fetch it again."
        )
    return members
