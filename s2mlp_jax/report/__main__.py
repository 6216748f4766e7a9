"""Makes tables, plots and a page of sweeps and runs, from their JSON alone.

  python -m s2mlp_jax.report WORKDIR... [--output=FOLDER]

A workdir is that of a sweep (s2mlp_jax.sweep) or of one run (main.py). Writes report.md,
report.html (one file, to be sent around), settings.csv, runs.csv and the plots as PNG.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from s2mlp_jax.report import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m s2mlp_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument("--output", default="", help="folder; else `report` in the first workdir")
    flags = parser.parse_args(arguments)
    try:
        folder = write_report(flags.workdirs, flags.output)
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    text = (folder / "report.md").read_text().partition("## What was run")[0]
    print(re.sub(r"<details>.*?</details>\n\n|!\[.*?\)\n\n", "", text, flags=re.DOTALL).strip())
    print(f"\nWrote {folder}/report.html, report.md, settings.csv, runs.csv and the plots.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
