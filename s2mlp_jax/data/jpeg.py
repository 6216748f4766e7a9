"""JPEG files: what a header says, and a file made of only some rows of another one.

An encoder may put a restart marker after each row of blocks, and decoding can begin at any of
them. So what lies above a crop need not be decoded; copies of data sets are written that way.
"""

import struct
import typing

import numpy as np

_START, END = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # the frames that are read here
_INTERVAL, _SCAN, _RESTART = 0xDD, 0xDA, 0xD0  # of restart markers there are eight, by turns

_SEGMENT = struct.Struct(">xBH")  # marker, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SHORT = struct.Struct(">H")


class Header(typing.NamedTuple):
    """What a JPEG of 8 bits, grey or of three colours, says of itself. Lengths are in pixels."""

    height: int
    width: int
    height_at: int  # position of the height in the file
    data_at: int  # position of the coded pixels
    in_order: bool  # rows come one after the other, so that some can be left out
    segment: int  # height of what lies between two restart markers; 0 if there are none to use


def read_header(data: bytes) -> Header | None:
    """Reads a JPEG's header; returns None for anything else, and for JPEGs of other kinds."""
    if not data.startswith(_START):
        return None
    position, interval, frame = len(_START), 0, None
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
            position += 2 + length
            if marker == _SCAN and frame:
                kind, at = frame
                in_order = kind in _SEQUENTIAL and data[position - length + 2] == components
                segment = 0
                if in_order and interval:
                    # A block that is coded at once: 8 x 8 pixels of the coarsest component.
                    factors = data[at + 11 : at + 11 + 3 * components : 3]
                    across, down = max(f >> 4 for f in factors), max(f & 15 for f in factors)
                    if components == 1:
                        across = down = 1
                    rows, rest = divmod(interval, -(-width // (8 * across)))
                    segment = 0 if rest else 8 * down * rows
                    in_order = not rest  # else whole rows do not end at a marker
                return Header(height, width, at + 5, position, in_order, segment)
    except (IndexError, ValueError, ZeroDivisionError, struct.error):  # the file ends before
        pass
    return None


def upper_rows(data: bytes, header: Header, rows: int) -> bytearray:
    """Makes a file say of itself that it ends after so many rows; what follows stays in it."""
    file = bytearray(data)
    _SHORT.pack_into(file, header.height_at, rows)
    return file


def cut(data: bytes, header: Header, top: int, bottom: int) -> tuple[bytearray, int, int] | None:
    """Cuts the rows from top to bottom out of a file with restart markers, and a few around them.

    Returns:
      a file, the number of its first row in the other one, and its height. None if the markers
      are not all there, or the whole file is needed.
    """
    count = -(-header.height // header.segment)
    start, stop = top // header.segment, min(-(-bottom // header.segment), count)
    if stop - start == count:
        return None
    coded = np.frombuffer(data, np.uint8, offset=header.data_at)
    marks = np.flatnonzero(coded[:-1] == 0xFF)
    marks = marks[coded[marks + 1] & 0xF8 == _RESTART]
    turns = np.arange(count - 1, dtype=np.uint8) % 8 + _RESTART
    if not np.array_equal(coded[marks + 1], turns) or not data.endswith(END):
        return None
    first, rows = start * header.segment, min(stop * header.segment, header.height)
    rows -= first
    begin = int(marks[start - 1]) + 2 if start else 0
    end = int(marks[stop - 1]) if stop < count else len(coded) - len(END)
    file = bytearray(data[: header.data_at])
    _SHORT.pack_into(file, header.height_at, rows)
    file += memoryview(coded)[begin:end]
    file += END
    inside = marks[start : stop - 1] - (begin - header.data_at) + 1
    np.frombuffer(file, np.uint8)[inside] = turns[: len(inside)]  # counted from the first again
    return file, first, rows
