"""JPEG files: what a header says, and a file made of only some rows of another one.

An encoder may put a restart marker after each row of blocks, and decoding can begin at any of
them, so that what lies above a crop need not be decoded. Copies of data sets are written that
way; to find the markers takes a while, so a comment in such a file says where they are.
"""

import re
import struct
import typing

_START, END = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # the frames that are read here
_INTERVAL, _SCAN, _COMMENT = 0xDD, 0xDA, 0xFE
_TURNS = [*range(0xD0, 0xD8)] * 1025  # the restart markers, of which there are eight, by turns
_INDEX = b"Restart markers: "  # begins the comment; 32 bits a marker follow

_SEGMENT = struct.Struct(">xBH")  # marker, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SHORT = struct.Struct(">H")


class Header(typing.NamedTuple):
    """What a JPEG of 8 bits, grey or of three colours, says of itself. Lengths are in pixels."""

    height: int
    width: int
    height_at: int  # position of the height in the file
    data_at: int  # position of the coded pixels
    in_order: bool  # rows come one after the other, without restart markers
    segment: int  # height of what lies between two restart markers; 0 if these are not to be used
    marks: tuple[int, ...]  # positions of the restart markers after data_at, where the file says


def read_header(data: bytes) -> Header | None:
    """Reads a JPEG's header; returns None for anything else, and for JPEGs of other kinds."""
    if not data.startswith(_START):
        return None
    position, interval, marks, frame = len(_START), 0, (), None
    try:
        while data[position] == 0xFF:
            marker, length = _SEGMENT.unpack_from(data, position)
            if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
                bits, height, width, components = _FRAME.unpack_from(data, position + 4)
                if bits != 8 or not height or not width or components not in (1, 3):
                    return None
                frame = marker, position
            elif marker == _INTERVAL:
                (interval,) = _SHORT.unpack_from(data, position + 4)
            elif marker == _COMMENT and data.startswith(_INDEX, position + 4):
                count = (length - 2 - len(_INDEX)) // 4
                marks = struct.unpack_from(f">{count}I", data, position + 4 + len(_INDEX))
            elif marker == _SCAN and frame:
                kind, at = frame
                in_order, segment = False, 0
                if kind in _SEQUENTIAL and data[position + 4] == components:
                    in_order = not interval
                    factors = data[at + 11 : at + 11 + 3 * components : 3]
                    segment = _segment(factors, interval, width) if interval else 0
                begin = position + 2 + length
                return Header(height, width, at + 5, begin, in_order, segment, marks)
            position += 2 + length
    except (IndexError, struct.error):  # the file ends before
        pass
    return None


def _segment(factors: bytes, interval: int, width: int) -> int:
    """Returns the height in pixels of what `interval` blocks fill, 0 if these are no whole rows.

    Args:
      factors: how many parts of each component a block has, across and down.
    """
    across, down = 8, 8
    if len(factors) > 1:
        across, down = 8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)
    rows, rest = divmod(interval, -(-width // across))
    return 0 if rest else down * rows


def add_index(data: bytes) -> bytes:
    """Writes into a JPEG with restart markers where they are."""
    header = read_header(data)
    if header is None or not header.segment:
        return data
    coded = memoryview(data)[header.data_at :]
    marks = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", coded)]
    text = _INDEX + struct.pack(f">{len(marks)}I", *marks)
    frame_at = header.height_at - 5
    comment = struct.pack(">BBH", 0xFF, _COMMENT, 2 + len(text)) + text
    return data[:frame_at] + comment + data[frame_at:]


def upper_rows(data: bytes, header: Header, rows: int) -> bytearray:
    """Makes a file say of itself that it ends after so many rows; what follows stays in it."""
    file = bytearray(data)
    _SHORT.pack_into(file, header.height_at, rows)
    return file


def cut(data: bytes, header: Header, top: int, bottom: int) -> tuple[bytearray, int, int] | None:
    """Cuts the rows from top to bottom out of a file that says where its restart markers are.

    Returns:
      a file of these rows and a few around them, the number of its first row in the other one,
      and its height. None if the markers are not where they should be.
    """
    if not header.segment or not data.endswith(END):
        return None
    count = -(-header.height // header.segment)
    if len(header.marks) != count - 1:
        return None
    start, stop = top // header.segment, min(-(-bottom // header.segment), count)
    before = max(start - 1, 0)
    used = [header.data_at + mark for mark in header.marks[before:stop]]
    turns = _TURNS[before % 8 : before % 8 + len(used)]
    if [data[at + 1] for at in used] != turns or any(data[at] != 0xFF for at in used):
        return None
    begin = used.pop(0) + 2 if start else header.data_at
    end = used.pop() if stop < count else len(data) - len(END)
    first, rows = start * header.segment, min(stop * header.segment, header.height)
    file = bytearray(data[: header.data_at])
    _SHORT.pack_into(file, header.height_at, rows - first)
    file += memoryview(data)[begin:end]
    file += END
    if start % 8:
        shift = header.data_at - begin + 1
        for at, turn in zip(used, _TURNS, strict=False):  # counted from the first again
            file[at + shift] = turn
    return file, first, rows - first
