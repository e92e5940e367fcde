"""The code location that `dg dev` and `dagster dev` open."""
