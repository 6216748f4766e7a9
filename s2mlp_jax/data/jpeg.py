"""JPEG files: what a header says, and a file made of only some rows of another one.

An encoder may put a restart marker after each row of blocks, and decoding can begin at any of
them, so that what lies above a crop need not be decoded. Copies of data sets are written that
way; to find the markers takes a while, so a comment in such a file says where they are.
"""

import re
import struct
import typing

_START, END = b"\xff\xd8", b"\xff\xd9"
_FRAMES, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2  # the kinds that are read here
_TABLE, _INTERVAL, _SCAN, _COMMENT = 0xC4, 0xDD, 0xDA, 0xFE
_TURN_CODES = [*range(0xD0, 0xD8)] * 1025  # the restart markers, of which there are eight, by turns
_TURNS = [bytes((0xFF, code)) for code in _TURN_CODES]
_INDEX = b"Restart markers: "  # begins the comment

_SEGMENT = struct.Struct(">xBH")  # marker, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SHORT = struct.Struct(">H")


class Header(typing.NamedTuple):
    """What a JPEG of 8 bits, grey or of three colours, says of itself. Lengths are in pixels."""

    height: int
    width: int
    height_at: int  # position of the height in the file
    data_at: int  # position of the coded pixels
    one_scan: bool  # rows come one after the other
    interval: int  # blocks from one restart marker to the next; 0: there are none
    segment: int  # height of these blocks, if the file says it
    marks: list[int]  # positions of the restart markers after data_at, if the file says them


def read_header(data: bytes) -> Header | None:
    """Reads a JPEG's header; returns None for anything else, and for JPEGs of other kinds."""
    if not data.startswith(_START):
        return None
    position, segment, interval, frame = len(_START), 0, 0, None
    marks: list[int] = []
    try:
        while data[position] == 0xFF:
            marker, length = _SEGMENT.unpack_from(data, position)
            if marker == _TABLE:  # the most frequent ones
                pass
            elif marker in _FRAMES:
                bits, height, width, components = _FRAME.unpack_from(data, position + 4)
                if bits != 8 or not height or not width or components not in (1, 3):
                    return None
                frame = marker, position + 5
            elif marker == _INTERVAL:
                (interval,) = _SHORT.unpack_from(data, position + 4)
            elif marker == _COMMENT and data.startswith(_INDEX, position + 4):
                count = (length - 4 - len(_INDEX)) // 4
                segment, *marks = struct.unpack_from(
                    f">H{count}I", data, position + 4 + len(_INDEX)
                )
            elif marker == _SCAN and frame:
                kind, height_at = frame
                one_scan = kind != _PROGRESSIVE and data[position + 4] == components
                begin = position + 2 + length
                return Header(height, width, height_at, begin, one_scan, interval, segment, marks)
            position += 2 + length
    except (IndexError, struct.error):  # the file ends before
        pass
    return None


def add_index(data: bytes) -> bytes:
    """Writes into a JPEG with a restart marker after each row of blocks where these are."""
    header = read_header(data)
    if header is None or not header.one_scan:
        return data
    across = down = 1  # blocks of 8 x 8 pixels; where colours are coarser, more of them together
    if data[header.height_at + 4] == 3:
        factors = data[header.height_at + 6 : header.height_at + 15 : 3]
        across, down = (
            max(factor >> 4 for factor in factors),
            max(factor & 15 for factor in factors),
        )
    if header.interval != -(-header.width // (8 * across)):
        return data
    marks = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data[header.data_at :])]
    text = _INDEX + struct.pack(f">H{len(marks)}I", 8 * down, *marks)
    comment = struct.pack(">BBH", 0xFF, _COMMENT, 2 + len(text)) + text
    frame_at = header.height_at - 5
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
    if [data[at : at + 2] for at in used] != _TURNS[before % 8 : before % 8 + len(used)]:
        return None
    begin = used.pop(0) + 2 if start else header.data_at
    end = used.pop() if stop < count else len(data) - len(END)
    first, rows = start * header.segment, min(stop * header.segment, header.height)
    height_at, data_at = header.height_at, header.data_at
    before_height, after_height = data[:height_at], data[height_at + 2 : data_at]
    height, coded = _SHORT.pack(rows - first), memoryview(data)[begin:end]
    file = bytearray().join((before_height, height, after_height, coded, END))
    if start % 8:
        shift = data_at - begin + 1
        for at, turn in zip(used, _TURN_CODES, strict=False):  # counted from the first again
            file[at + shift] = turn
    return file, first, rows - first
