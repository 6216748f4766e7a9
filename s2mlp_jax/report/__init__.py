"""Reports: tables, plots and an HTML page from the JSON of sweeps and runs, without jax."""

from s2mlp_jax.report.runs import Study, read_study
from s2mlp_jax.report.write import write_report

__all__ = ["Study", "read_study", "write_report"]
