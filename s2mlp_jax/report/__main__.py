"""Makes tables, plots and an HTML page from the JSON files of sweeps and runs.

  python -m s2mlp_jax.report WORKDIR... [--output=FOLDER]
  python -m s2mlp_jax.report relations

WORKDIR is the folder of a sweep (s2mlp_jax.sweep) or of one run (main.py). Writes report.md,
report.html (one self-contained file), settings.csv, runs.csv and the plots as PNG.

"relations" prints Table 1 of the paper, computed from the token mixers; this needs jax.
"""

import sys
from collections.abc import Sequence

from s2mlp_jax.cli import ExitCode, Parser, command
from s2mlp_jax.escape import printable
from s2mlp_jax.report import markdown
from s2mlp_jax.report.write import default_folder, read_studies, write_studies


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a report; returns the exit code."""
    parser = Parser(prog="python -m s2mlp_jax.report", description=__doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument(
        "--output", default="", help="folder of the report; default: `report` in the first workdir"
    )
    flags = parser.parse_args(arguments)
    if flags.workdirs == ["relations"]:
        try:
            from s2mlp_jax.models import relations
        except ImportError as error:
            raise ValueError(f"The relations are computed with jax and flax: {error}") from error
        print(relations.table())
        return ExitCode.DONE
    studies = read_studies(flags.workdirs)
    folder = default_folder(flags.workdirs, flags.output)
    write_studies(studies, folder)
    for study in studies:
        print(printable("\n\n".join(markdown.summary(study)), lines=True) + "\n")
    print(f"Wrote {folder}/report.html, report.md, settings.csv, runs.csv and the plots.")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
