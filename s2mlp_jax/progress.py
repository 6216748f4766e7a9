"""What a person sees: plain lines, and a progress bar where there is a terminal."""

import sys

import jax
from tqdm import tqdm


def say(message: str) -> None:
    """Prints a line, above the progress bar if there is one; in the first process only."""
    if jax.process_index() == 0:
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()


class Progress:
    """A bar over steps on a terminal, plain lines elsewhere."""

    def __init__(self, total: int, start: int) -> None:
        terminal = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm(
            total=total, initial=start, unit="step", disable=not terminal, dynamic_ncols=True
        )

    def advance(self) -> None:
        """Counts one step."""
        self._bar.update()

    def note(self, step: int, figures: str) -> None:
        """Shows passing figures: beside the bar, or as a line where there is none."""
        if self._bar.disable:
            self.tell(step, figures)
        else:
            self._bar.set_postfix_str(figures, refresh=False)

    def tell(self, step: int, figures: str) -> None:
        """Shows figures to be kept, as a line."""
        say(f"step {step}/{self._bar.total}  {figures}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
