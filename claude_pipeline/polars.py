"""Importing this gives every DataFrame of Polars `df.claude.batch(…)`, `.stream(…)` and `.estimate(…)`."""

import polars as pl

from claude_pipeline.accessors import Claude

pl.api.register_dataframe_namespace("claude")(Claude)
