"""JPEG files: reads headers, and makes a file of only some rows of another one.

An encoder may put a restart marker after each row of blocks. Decoding can begin at any marker, so
the rows above a crop need not be decoded. Copies of data sets are written that way. As finding
the markers takes time, a comment in such a file lists their positions.
"""

import re
import struct
import typing

_START, END = b"\xff\xd8", b"\xff\xd9"
_FRAMES, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2  # the kinds that this module reads
_TABLE, _INTERVAL, _SCAN, _COMMENT = 0xC4, 0xDD, 0xDA, 0xFE
_TURN_CODES = [*range(0xD0, 0xD8)] * 1025  # the eight restart markers, repeated
_TURNS = [bytes((0xFF, code)) for code in _TURN_CODES]
_INDEX = b"Restart markers: "  # begins the comment

_SEGMENT = struct.Struct(">xBH")  # marker, length
_FRAME = struct.Struct(">BHHB")  # bits, height, width, components
_SHORT = struct.Struct(">H")


class Header(typing.NamedTuple):
    """Header of a JPEG with 8 bits and one or three components. Lengths are in pixels."""

    height: int
    width: int
    height_at: int  # position of the height in the file
    data_at: int  # position of the coded pixels
    one_scan: bool  # whether rows are stored one after the other
    interval: int  # blocks between two restart markers; 0 if there are no markers
    segment: int  # height of these blocks; 0 if the file does not state it
    marks: list[int]  # positions of the restart markers, relative to data_at; may be empty


def read_header(data: bytes) -> Header | None:
    """Reads a JPEG's header; returns None for other files and for other kinds of JPEG."""
    if not data.startswith(_START):
        return None
    position, segment, interval, frame = len(_START), 0, 0, None
    marks: list[int] = []
    try:
        while data[position] == 0xFF:
            marker, length = _SEGMENT.unpack_from(data, position)
            if marker == _TABLE:  # the most frequent marker
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
    except (IndexError, struct.error):  # the file ends inside the header
        pass
    return None


def add_index(data: bytes) -> bytes:
    """Adds the positions of restart markers to a JPEG that has one after each row of blocks.

    Other files are returned unchanged.
    """
    header = read_header(data)
    if header is None or not header.one_scan:
        return data
    across = down = 1  # in blocks of 8 x 8 pixels; more than one if colours are subsampled
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
    """Sets the height in a file's header to `rows`; the data of later rows stay in the file."""
    file = bytearray(data)
    _SHORT.pack_into(file, header.height_at, rows)
    return file


def cut(data: bytes, header: Header, top: int, bottom: int) -> tuple[bytearray, int, int] | None:
    """Cuts the rows from top to bottom out of a file that lists its restart markers.

    Returns:
      A file of these rows and a few around them, the index of its first row in the original
      image, and its height. None if the markers are not at the listed positions.
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
        for at, turn in zip(used, _TURN_CODES, strict=False):  # numbered from the first again
            file[at + shift] = turn
    return file, first, rows - first
