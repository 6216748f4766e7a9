"""A matplotlib figure that notebooks display without pyplot."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A Figure made without pyplot (no window, no global state) that notebooks still display.

    IPython displays a plain Figure only after pyplot has registered it. An object with IPython's
    `_repr_png_` needs no registration; with both, IPython displays one picture.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=90)
        return file.getvalue()
