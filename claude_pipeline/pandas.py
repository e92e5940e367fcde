"""Importing this gives every DataFrame of pandas `df.claude.batch(…)`, `.stream(…)` and `.estimate(…)`."""

import pandas as pd

from claude_pipeline.accessors import Claude

pd.api.extensions.register_dataframe_accessor("claude")(Claude)
