"""The YAML door: what it says is what `build_batch_defs` is called with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field

from claude_pipeline.dagster.assets import build_batch_defs
from claude_pipeline.dagster.checks import Checks
from claude_pipeline.dagster.fields import (
    as_it_stands,
    injected,
    named,
    partitions,
    path,
    plain,
    retries,
    single_run,
    text,
)
from claude_pipeline.dagster.instant import build_stream_asset

_Text = str | None
_Names = list[str] | None
_Object = dict[str, Any] | None


class ScaffoldParams(dg.Model):
    """What `dg scaffold defs` asks for."""

    source: str | None = Field(default=None, description="A path, or a glob, of Parquet or CSV files.")
    upstream: str | None = Field(default=None, description="Instead, an asset whose value is the table.")
    template: str = Field(default="Label the sentiment: {text}", description="The prompt, with columns in braces.")
    model: str = Field(default="claude-haiku-4-5", description="A model's id.")
    max_tokens: int = Field(default=64, description="The longest answer, in tokens.")


class BatchScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a `defs.yaml` whose answers are called as its folder."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return what may be given on the command line."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the file."""
        params = request.params
        # What is named on the command line lies where that is typed; in the file paths begin at the file.
        source = os.path.relpath(params.source, request.target_path) if params.source else "reviews.parquet"
        table = {"upstream": params.upstream} if params.upstream else {"source": source}
        asked = {"template": params.template, "model": params.model, "max_tokens": params.max_tokens}
        dg.scaffold_component(request, {"key": request.target_path.name, **table, **asked})


@dg.scaffold_with(BatchScaffolder)
@dataclass(kw_only=True)
class BatchComponent(dg.Component, dg.Resolvable):
    """Answers every row of a table with Claude's Message Batches, at half the price.

    `<key>_batch` sends the rows; `<key>` holds the answers when the batches have ended.
    """

    key: Annotated[str, plain("The key of the answers; slashes part it.", "labels")]
    source: Annotated[
        str | list[str] | None,
        path("A path, glob or list of Parquet or CSV files.", "data/*.parquet", kind=str | list[str]),
    ] = None
    upstream: Annotated[
        _Text,
        plain("Instead of source, an asset whose value is a table or a path.", "reviews"),
    ] = None

    mode: Annotated[
        Literal["batch", "stream", "auto"],
        plain("How to ask: in batches, now (`stream`, at list price), or now what has at most max_rows rows.", "auto"),
    ] = "batch"
    max_rows: Annotated[int | None, plain("Rows that are streamed at most, 200 if nothing is said.", 50)] = None

    prompt_column: Annotated[_Text, plain("The text column that is the prompt.", "text")] = None
    template: Annotated[_Text, text("The prompt, with columns in braces.", "Label the sentiment: {text}")] = None
    template_file: Annotated[_Text, path("A file with such a template, beside the YAML.", "prompt.txt")] = None
    messages_column: Annotated[_Text, plain("A column of conversations, lists of {role, content}.", "chat")] = None
    images: Annotated[_Names, plain("Columns of images: bytes, paths or URLs.", ["photo"])] = None
    documents: Annotated[_Names, plain("Columns of documents: PDF or text.", ["invoice"])] = None
    claude_model: Annotated[_Text, named("model", "A model's id.", "claude-haiku-4-5")] = None
    max_tokens: Annotated[int | None, plain("The longest answer, in tokens.", 64)] = None
    system: Annotated[_Text, text("The system prompt, which may have fields too.", "Answer with one word.")] = None
    system_file: Annotated[_Text, path("A file with a system prompt, beside the YAML.", "system.txt")] = None
    params: Annotated[
        _Object,
        as_it_stands(
            "Any other parameter of the Messages API.", {"thinking": {"type": "adaptive"}}, kind=dict[str, Any]
        ),
    ] = None
    params_columns: Annotated[
        dict[str, str] | None, plain("Parameters that a row brings along: by name, the column.", {"model": "model"})
    ] = None
    betas: Annotated[_Names, plain("Beta features of the API to ask with.", ["output-300k-2026-03-24"])] = None
    cache: Annotated[Literal["5m", "1h"] | None, plain("How long to cache what all prompts begin with.", "1h")] = None
    output_schema: Annotated[
        dict[str, Any] | str | None,
        as_it_stands(
            "What an answer must look like; its properties become typed columns.",
            {"sentiment": "positive|negative", "score": "float"},
            kind=dict[str, Any] | str,
        ),
    ] = None
    content: Annotated[Literal["json"] | None, plain("A column of all blocks of an answer.", "json")] = None
    on_invalid: Annotated[
        Literal["retry"] | None, plain("Ask again, and pay for, what does not fit the schema.", "retry")
    ] = None
    on_truncated: Annotated[
        Literal["retry"] | None, plain("The same with what was cut off, with twice the limit.", "retry")
    ] = None
    fill_null: Annotated[_Text, as_it_stands("What stands for a null in a field.", "unknown", kind=str)] = None
    salt: Annotated[_Text, as_it_stands("Any text; another one asks the same afresh.", "second", kind=str)] = None
    salt_column: Annotated[_Text, plain("The same, row by row: several samples of one prompt.", "sample")] = None
    id_column: Annotated[_Text, plain("A column that names rows in messages and checks.", "id")] = None
    prefix: Annotated[_Text, plain("Put before the names of the columns that are added.", "claude_")] = None
    limit: Annotated[int | None, plain("Ask only the first so many rows.", 100)] = None
    preflight: Annotated[bool | None, plain("Show the first request to count_tokens before sending.", True)] = None  # noqa: FBT003
    max_cost_usd: Annotated[float | None, plain("Dollars that a job may cost.", 25)] = None
    prime_cache: Annotated[bool | None, plain("Send one request ahead, to fill the cache.", True)] = None  # noqa: FBT003
    max_batch_requests: Annotated[int | None, plain("Requests in a batch, at most 100,000.", 50_000)] = None
    max_batch_bytes: Annotated[int | None, plain("Bytes of a batch, at most 256,000,000.", 100_000_000)] = None
    max_queued_requests: Annotated[int | None, plain("Requests of the account at once.", 200_000)] = None
    max_attempts: Annotated[int | None, plain("How often a request that may pass is sent.", 3)] = None

    partitions_def: Annotated[Any, partitions()] = None
    partition_column: Annotated[_Text, plain("The column that says which partition a row belongs to.", "day")] = None
    output_path: Annotated[
        _Text, path("The Parquet file of the answers, or with partitions the folder.", "labels.parquet")
    ] = None
    io_manager_key: Annotated[_Text, plain("Hand the answers to this IO manager as a DataFrame.", "warehouse")] = None
    checks: Annotated[Any, as_it_stands("What the answers should come to.", {"min_valid": 0.98}, kind=Checks)] = None
    group_name: Annotated[_Text, plain("The assets' group.", "reviews")] = None
    owners: Annotated[_Names, plain("The assets' owners.", ["team:nlp", "ada@example.com"])] = None
    tags: Annotated[dict[str, str] | None, plain("The assets' tags.", {"domain": "reviews"})] = None
    kinds: Annotated[_Names, plain("The kinds of the answers beside claude; two at most.", ["parquet"])] = None
    deps: Annotated[_Names, plain("Assets that must be there before anything is sent.", ["consent"])] = None
    automation_condition: Annotated[
        Any, injected("When to submit by itself.", "{{ dg.AutomationCondition.on_cron('0 2 * * *') }}")
    ] = None
    freshness_policy: Annotated[
        Any,
        injected(
            "How old the answers may get.",
            "{{ dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(hours=36)) }}",
        ),
    ] = None
    retry_policy: Annotated[Any, retries()] = None
    pool: Annotated[_Text, plain("The concurrency pool of the steps.", "anthropic")] = None
    backfill_policy: Annotated[Any, single_run()] = None
    minimum_interval_seconds: Annotated[int | None, plain("How often the sensor looks.", 30)] = None

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Describe the component in lists."""
        return dg.ComponentTypeSpec(tags=["claude", "llm", "batch"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002  Dagster passes it
        """Call the builder with what the YAML says."""
        options = dict(self._options())
        if self.mode == "stream":
            del options["mode"]
            return dg.Definitions(assets=[build_stream_asset(**options)])
        return build_batch_defs(**options)

    def _options(self) -> Mapping[str, Any]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["model"] = given.pop("claude_model")
        given["key"] = dg.AssetKey.from_user_string(self.key)
        return {name: value for name, value in given.items() if value is not None}
