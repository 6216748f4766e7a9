"""What every picture is: a matplotlib figure that a notebook shows by itself."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A Figure made without pyplot: no window, no global state, and shown all the same.

    IPython shows a bare Figure only after pyplot has registered it. Its own protocol,
    `_repr_png_`, asks for nothing of the kind; where both are there it shows one picture.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=90)
        return file.getvalue()
