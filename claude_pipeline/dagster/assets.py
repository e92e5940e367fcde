"""A table's answers as two assets: one submits, the other holds the answers when they are there."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.answers import Answers, Collected
from claude_pipeline.dagster.canceling import build_cancel_job
from claude_pipeline.dagster.checks import Checker, Checks
from claude_pipeline.dagster.options import AssetKeyLike, check_request, checked_output, kinds_of, references
from claude_pipeline.dagster.partitions import check_partitions
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.sensor import automation_sensor, build_batch_sensor
from claude_pipeline.dagster.streaming import MAX_ROWS
from claude_pipeline.dagster.submission import Submission, in_words


def build_batch_defs(
    *,
    key: AssetKeyLike,
    source: "cp.Source | None" = None,
    upstream: AssetKeyLike | None = None,
    mode: Literal["batch", "auto"] = "batch",
    max_rows: int = MAX_ROWS,
    partitions_def: dg.PartitionsDefinition[str] | None = None,
    partition_column: str | None = None,
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
    backfill_policy: dg.BackfillPolicy | None = None,
    minimum_interval_seconds: int = 30,
    **request: "Unpack[cp.SubmitOptions]",
) -> dg.Definitions:
    """Build the assets, checks, jobs and sensors that answer every row of a table.

    Materializing `<key>_batch` submits and returns. `<key>` is skipped, with everything downstream, until its batches
    have ended; then the sensor materializes it. Schedules and backfills use the job `<key>_submit_job`; the job
    `<key>_cancel_job` cancels batches. A `ClaudeResource` is expected under the resource key `claude`.

    Args:
        key: The key of the answers.
        source: A path, glob or list of Parquet or CSV files.
        upstream: Instead of `source`, an asset whose value is a table: pandas, pyarrow, Polars or a path.
        mode: "auto" streams what has at most `max_rows` rows, so that its answers are there at once, at list price.
        max_rows: Rows that are streamed at most.
        partitions_def: Partitions, each of which is a job of its own.
        partition_column: What says which partition a row belongs to: a date or time within its window, or its key. An
            upstream asset with the same partitions needs none.
        output_path: The Parquet file of the answers, or with partitions the folder of their files; else in the store.
        io_manager_key: Hand the answers to this IO manager as a pandas DataFrame instead of keeping the file.
        checks: What the answers should come to.
        group_name: The assets' group.
        owners: The assets' owners: e-mail addresses, or names of teams such as `team:nlp`.
        tags: The assets' tags.
        kinds: The kinds of the answers beside `claude`; two at most, instead of `parquet`.
        deps: Assets that must be there before anything is sent, beside the table's.
        automation_condition: When to submit by itself.
        freshness_policy: How old the answers may get.
        retry_policy: How often a step is tried again when the API could not be reached; nothing is sent twice.
        pool: The concurrency pool of the steps.
        backfill_policy: How many partitions a run of the submission takes; the answers come one a run.
        minimum_interval_seconds: How often the sensor looks.
        **request: What `claude_pipeline.submit` takes: `template`, `model`, `max_tokens`, `params` and so on.

    Raises:
        InputError: Both or neither of `source` and `upstream` are given, or nothing says which rows are a partition's.
        OutputError: `output_path` cannot be written.
        TypeError: There is no such argument, or one is missing.

    Examples:
        .. code-block:: python

            import dagster as dg
            from claude_pipeline.dagster import ClaudeResource, build_batch_defs

            defs = dg.Definitions.merge(
                build_batch_defs(
                    key="labels",
                    source="reviews.parquet",
                    template="Label the sentiment: {text}",
                    model="claude-haiku-4-5",
                    max_tokens=16,
                ),
                dg.Definitions(resources={"claude": ClaudeResource()}),
            )
    """
    if (source is None) == (upstream is None):
        raise cp.InputError("build_batch_defs needs one of source= and upstream=, and only one.")
    if mode == "auto" and (request.get("on_invalid") or request.get("on_truncated")):
        raise cp.InputError("on_invalid= and on_truncated= ask again in batches. With mode='auto' leave them out.")
    check_partitions(partitions_def, column=partition_column, is_source=source is not None)
    check_request(request, cp.SubmitOptions.__optional_keys__, builder=build_batch_defs)
    asset_key = dg.AssetKey.from_coercible(key)
    upstream_key = None if upstream is None else dg.AssetKey.from_coercible(upstream)
    answers = Answers(
        asset_key,
        batch_key=dg.AssetKey([*asset_key.path[:-1], f"{asset_key.path[-1]}_batch"]),
        upstream=upstream_key,
        partitions_def=partitions_def,
        output_path=checked_output(output_path, is_folder=partitions_def is not None),
        io_manager_key=io_manager_key,
        checker=Checker.of(asset_key, checks or Checks(), request),
    )
    streams = max_rows if mode == "auto" else None
    submission = Submission(asset_key, upstream_key, partitions_def, partition_column, request, streams)
    page = {"group_name": group_name, "owners": owners, "tags": tags, "metadata": references(sys._getframe(1))}  # noqa: SLF001
    step = {"retry_policy": retry_policy, "pool": pool}
    before = {"deps": deps, "automation_condition": automation_condition, "backfill_policy": backfill_policy}
    after = {"kinds": kinds_of(kinds, io_manager_key), "freshness_policy": freshness_policy}
    assets = [
        _submission_asset(answers, submission, source, page | step | before),
        _answers_asset(answers, page | after, step),
    ]
    return _definitions(answers, assets, minimum_interval_seconds=minimum_interval_seconds)


def _definitions(
    answers: Answers, assets: list[dg.AssetsDefinition], *, minimum_interval_seconds: int
) -> dg.Definitions:
    selection = dg.AssetSelection.assets(answers.batch_key)
    submit_job = _job(answers, "submit", selection if answers.upstream is None else selection.upstream(depth=1))
    collect_job = _job(answers, "collect", dg.AssetSelection.assets(answers.key))
    sensor = build_batch_sensor(answers, collect_job, minimum_interval_seconds=minimum_interval_seconds)
    jobs = [submit_job, build_cancel_job(answers)]
    return dg.Definitions(assets=assets, jobs=jobs, sensors=[sensor, automation_sensor])


def _job(answers: Answers, verb: str, selection: dg.AssetSelection) -> Any:  # noqa: ANN401  no public type
    name = f"{answers.key.to_python_identifier()}_{verb}_job"
    return dg.define_asset_job(name, selection=selection, executor_def=dg.in_process_executor)


def _submission_asset(
    answers: Answers,
    submission: Submission,
    source: Any,  # noqa: ANN401  what submit takes
    options: Mapping[str, Any],
) -> dg.AssetsDefinition:
    given = {name: option for name, option in options.items() if option is not None}
    asset: Any = partial(
        dg.asset,
        key=answers.batch_key,
        kinds={"claude"},
        partitions_def=answers.partitions_def,
        description=f"Sends every row as Message Batches. The answers come as `{answers.key.to_user_string()}`.",
        **given,
    )

    def of_source(context: dg.AssetExecutionContext, claude: ClaudeResource) -> dg.MaterializeResult[None]:
        return submission.submit(context, claude, source)

    def of_upstream(
        context: dg.AssetExecutionContext,
        claude: ClaudeResource,
        table: Any,  # noqa: ANN401  what the IO manager loads
    ) -> dg.MaterializeResult[None]:
        return submission.submit(context, claude, table)

    made: dg.AssetsDefinition = (
        asset()(of_source)
        if answers.upstream is None
        else asset(ins={"table": dg.AssetIn(key=answers.upstream)})(of_upstream)
    )
    return made


def _answers_asset(answers: Answers, options: Mapping[str, Any], step: Mapping[str, Any]) -> dg.AssetsDefinition:
    key = answers.key
    spec = dg.AssetSpec(
        key,
        deps=[answers.batch_key],
        skippable=True,
        partitions_def=answers.partitions_def,
        description="Every row of the input with its answer. Materialized by the sensor when the batches have ended.",
        **options,
    )
    if answers.io_manager_key is not None:
        spec = spec.with_io_manager_key(answers.io_manager_key)

    @dg.multi_asset(
        name=key.to_python_identifier(), specs=[spec], check_specs=answers.checker.specs(), can_subset=True, **step
    )
    def collected(context: dg.AssetExecutionContext, claude: ClaudeResource) -> Iterator[Any]:
        partitions = [None] if answers.partitions_def is None else context.partition_keys
        if len(partitions) > 1:
            context.log.info("The sensor materializes these %d partitions, each when it has ended.", len(partitions))
            return
        (partition,) = partitions
        with in_words():
            status = answers.advance(context, claude, partition)
            result = answers.collect(status, claude, partition) if status.state == "ended" else None
        if result is None:
            context.log.info(answers.not_ended(status))
        else:
            yield from _yielded(context, key, result)
        answers.advance_others(context, claude)

    return collected


def _yielded(context: dg.AssetExecutionContext, key: dg.AssetKey, result: Collected) -> Iterator[Any]:
    if key in context.selected_asset_keys:
        yield dg.MaterializeResult(asset_key=key, metadata=result.metadata, **result.value)
    for check in result.checks:
        if dg.AssetCheckKey(key, check.check_name or "") in context.selected_asset_check_keys:
            yield check
