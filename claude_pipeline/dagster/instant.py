"""A small table's answers as one asset, which is there when its run is."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.answers import Answers
from claude_pipeline.dagster.checks import Checker, Checks
from claude_pipeline.dagster.options import AssetKeyLike, check_request, checked_output, kinds_of, references
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.streaming import MAX_ROWS, stream_rows
from claude_pipeline.dagster.submission import in_words


def build_stream_asset(
    *,
    key: AssetKeyLike,
    source: "cp.Source | None" = None,
    upstream: AssetKeyLike | None = None,
    output_path: str | Path | None = None,
    io_manager_key: str | None = None,
    checks: Checks | None = None,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    kinds: Sequence[str] = (),
    deps: Sequence[AssetKeyLike] = (),
    automation_condition: dg.AutomationCondition[Any] | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    **request: "Unpack[cp.StreamOptions]",
) -> dg.AssetsDefinition:
    """Build an asset that answers every row of a small table within its run, at list price.

    Its page, its checks and its table are those of `build_batch_defs`, and its answers are in the same store: no batch
    pays for them again. A table of more than `max_rows` is refused before anything is asked.

    Args:
        key: The key of the answers.
        source: A path, glob or list of Parquet or CSV files.
        upstream: Instead of `source`, an asset whose value is a table: pandas, pyarrow, Polars or a path.
        output_path: The Parquet file of the answers; else it is in the store.
        io_manager_key: Hand the answers to this IO manager as a pandas DataFrame instead of keeping the file.
        checks: What the answers should come to.
        group_name: The asset's group.
        owners: Its owners: e-mail addresses, or names of teams such as `team:nlp`.
        tags: Its tags.
        kinds: Its kinds beside `claude`; two at most, instead of `parquet`.
        deps: Assets that must be there before anything is asked, beside the table's.
        automation_condition: When to run by itself.
        freshness_policy: How old the answers may get.
        retry_policy: How often the step is tried again when the API could not be reached; nothing is paid twice.
        pool: The concurrency pool of the step.
        **request: What `claude_pipeline.stream` takes: `template`, `model`, `max_tokens`, `max_concurrency` and so on;
            `max_rows` is 200 if nothing else is said.

    Raises:
        InputError: Both or neither of `source` and `upstream` are given.
        OutputError: `output_path` cannot be written.
        TypeError: There is no such argument, or one is missing.
    """
    if (source is None) == (upstream is None):
        raise cp.InputError("build_stream_asset needs one of source= and upstream=, and only one.")
    taken = cp.StreamOptions.__optional_keys__ - {
        "name",
        "store",
        "ledger",
        "base_url",
        "client",
        "on_text",
        "on_event",
    }
    check_request(request, taken, builder=build_stream_asset)
    asset_key = dg.AssetKey.from_coercible(key)
    answers = Answers(
        asset_key,
        batch_key=asset_key,
        upstream=None if upstream is None else dg.AssetKey.from_coercible(upstream),
        partitions_def=None,
        output_path=checked_output(output_path),
        io_manager_key=io_manager_key,
        checker=Checker.of(asset_key, checks or Checks(), dict(request)),
    )
    options = {
        "group_name": group_name,
        "owners": owners,
        "tags": tags,
        "metadata": references(sys._getframe(1)),  # noqa: SLF001
        "kinds": kinds_of(kinds, io_manager_key),
        "deps": deps,
        "automation_condition": automation_condition,
        "freshness_policy": freshness_policy,
        "retry_policy": retry_policy,
        "pool": pool,
        "io_manager_key": io_manager_key,
    }
    given = {name: option for name, option in options.items() if option is not None}
    return _asset(answers, source, {"max_rows": MAX_ROWS, **request}, given)


def _asset(
    answers: Answers,
    source: Any,  # noqa: ANN401  what stream takes
    request: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dg.AssetsDefinition:
    def stream(context: dg.AssetExecutionContext, claude: ClaudeResource, table: Any) -> Iterator[Any]:  # noqa: ANN401
        name = answers.key.to_user_string()
        with in_words():
            claude.keep_budget()
            streamed = stream_rows(context, claude, table, name=name, request=request)
            collected = answers.collect(streamed.job.status(), claude, None)
        metadata = {**collected.metadata, **streamed.metadata()}
        yield dg.MaterializeResult(metadata=metadata, check_results=collected.checks, **collected.value)

    def of_source(context: dg.AssetExecutionContext, claude: ClaudeResource) -> Iterator[Any]:
        yield from stream(context, claude, source)

    def of_upstream(
        context: dg.AssetExecutionContext,
        claude: ClaudeResource,
        table: Any,  # noqa: ANN401  what the IO manager loads
    ) -> Iterator[Any]:
        yield from stream(context, claude, table)

    description = "Every row of a small table with its answer, streamed within the run."
    asset: Any = {"key": answers.key, "description": description, "check_specs": answers.checker.specs(), **options}
    made: dg.AssetsDefinition = (
        dg.asset(**asset)(of_source)
        if answers.upstream is None
        else dg.asset(ins={"table": dg.AssetIn(key=answers.upstream)}, **asset)(of_upstream)
    )
    return made
