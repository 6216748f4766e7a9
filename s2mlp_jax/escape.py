"""Text from files, shown to people: names of files and classes may hold anything.

It is escaped where it leaves: for terminals here, for Markdown here, for HTML in `report.page`.
"""

import html
import json
import re
import typing


def printable(text: object, lines: bool = False) -> str:
    r"""Returns a text as one line without control characters, which appear as "\x1b".

    So do characters that turn the direction of writing, and bytes of a name that is not UTF-8.

    Args:
      lines: keeps the ends of lines, for a message of several.
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def json_line(content: typing.Any) -> str:
    """Returns JSON in one line, readable where that is safe, else with all escapes."""
    text = json.dumps(content, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(content)


def markdown(text: object) -> str:
    """Returns a text for Markdown: no HTML, link, picture, code, cell or heading of its own."""
    text = html.escape(printable(text), quote=False)
    text = re.sub(r"([\\`|]|\](?=[(\[:]))", r"\\\1", text)
    return re.sub(r"^(\s*)(#|=|~~|[*+-](?=[\s*-]))", r"\1\\\2", text)


def code(text: object) -> str:
    """Returns a text as code in Markdown, also in a table."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', '¦')}`"
