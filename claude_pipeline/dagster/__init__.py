"""Claude's Message Batches as Dagster assets: submit, sense, materialize."""

from claude_pipeline.dagster.alerts import Alert, build_alert_defs
from claude_pipeline.dagster.assets import build_batch_defs
from claude_pipeline.dagster.checks import Checks
from claude_pipeline.dagster.component import BatchComponent
from claude_pipeline.dagster.instant import build_stream_asset
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.sensor import automation_sensor

__all__ = [
    "Alert",
    "BatchComponent",
    "Checks",
    "ClaudeResource",
    "automation_sensor",
    "build_alert_defs",
    "build_batch_defs",
    "build_stream_asset",
]
