"""A table's answers as two assets: one submits, the other holds the answers when they are there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

import dagster as dg

import claude_pipeline as cp
from claude_pipeline.dagster.answers import Answers, check_specs
from claude_pipeline.dagster.metadata import submission_metadata
from claude_pipeline.dagster.resource import ClaudeResource
from claude_pipeline.dagster.sensor import automation_sensor, build_batch_sensor

AssetKeyLike = str | Sequence[str] | dg.AssetKey


def build_batch_defs(
    *,
    key: AssetKeyLike,
    source: "cp.Source | None" = None,
    upstream: AssetKeyLike | None = None,
    output_path: str | Path | None = None,
    io_manager_key: str | None = None,
    group_name: str | None = None,
    min_succeeded: float = 1.0,
    minimum_interval_seconds: int = 30,
    **request: "Unpack[cp.SubmitOptions]",
) -> dg.Definitions:
    """Build the assets, checks, jobs and sensors that answer every row of a table.

    Materializing `<key>_batch` submits and returns. `<key>` is skipped, with everything downstream, until its batches
    have ended; then the sensor materializes it. Schedules and backfills use the job `<key>_submit_job`. A
    `ClaudeResource` is expected under the resource key `claude`.

    Args:
        key: The key of the answers.
        source: A path, glob or list of Parquet or CSV files.
        upstream: Instead of `source`, an asset whose value is a table: pandas, pyarrow, Polars or a path.
        output_path: The Parquet or CSV file of the answers; else one in the store.
        io_manager_key: Hand the answers to this IO manager as a pandas DataFrame instead of writing a file.
        group_name: The assets' group.
        min_succeeded: The share of rows, from 0 to 1, that a check wants answered.
        minimum_interval_seconds: How often the sensor looks.
        **request: What `claude_pipeline.submit` takes: `template`, `model`, `max_tokens`, `params` and so on.

    Raises:
        InputError: Both or neither of `source` and `upstream` are given, or `min_succeeded` is no share.
        OutputError: `output_path` cannot be written.
        TypeError: There is no such argument, or one is missing.

    Examples:
        .. code-block:: python

            import dagster as dg
            from claude_pipeline.dagster import ClaudeResource, build_batch_defs

            labels = build_batch_defs(
                key="labels",
                source="reviews.parquet",
                template="Label the sentiment: {text}",
                model="claude-haiku-4-5",
                max_tokens=16,
            )
            defs = dg.Definitions.merge(labels, dg.Definitions(resources={"claude": ClaudeResource()}))
    """
    if (source is None) == (upstream is None):
        raise cp.InputError("build_batch_defs needs one of source= and upstream=, and only one.")
    if not 0 <= min_succeeded <= 1:
        raise cp.InputError(f"min_succeeded is {min_succeeded}. It is a share of the rows, from 0 to 1.")
    _check_request(request)
    asset_key = dg.AssetKey.from_coercible(key)
    *parents, last = asset_key.path
    answers = Answers(
        key=asset_key,
        batch_key=dg.AssetKey([*parents, f"{last}_batch"]),
        output_path=_checked(output_path),
        io_manager_key=io_manager_key,
        prefix=request.get("prefix", ""),
        min_succeeded=min_succeeded,
    )
    selection = dg.AssetSelection.assets(answers.batch_key)
    submit_job = _job(answers, "submit", selection if upstream is None else selection.upstream(depth=1))
    collect_job = _job(answers, "collect", dg.AssetSelection.assets(asset_key))
    return dg.Definitions(
        assets=[
            _submission_asset(answers, source, upstream, request, group_name=group_name),
            _answers_asset(answers, group_name=group_name),
        ],
        jobs=[submit_job],
        sensors=[
            build_batch_sensor(answers, collect_job, minimum_interval_seconds=minimum_interval_seconds),
            automation_sensor,
        ],
    )


def _check_request(request: "cp.SubmitOptions") -> None:
    taken = [*cp.SubmitOptions.__optional_keys__]
    for name in request.keys() - taken:
        raise TypeError(
            f"build_batch_defs has no argument {name!r}. Of a request it takes: {', '.join(sorted(taken))}."
        )
    for name in ("model", "max_tokens"):
        if name not in request and name not in (request.get("params_columns") or ()):
            raise TypeError(f"build_batch_defs needs the argument {name!r}.")


def _checked(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    if Path(path).suffix.lower() != ".parquet":
        raise cp.OutputError(f"The answers of an asset are Parquet, but output_path is {str(path)!r}.")
    return cp.check_output(path)


def _job(answers: Answers, verb: str, selection: dg.AssetSelection) -> Any:  # noqa: ANN401  no public type
    name = f"{answers.key.to_python_identifier()}_{verb}_job"
    return dg.define_asset_job(name, selection=selection, executor_def=dg.in_process_executor)


def _submission_asset(
    answers: Answers,
    source: Any,  # noqa: ANN401  what submit takes
    upstream: AssetKeyLike | None,
    request: "cp.SubmitOptions",
    *,
    group_name: str | None,
) -> dg.AssetsDefinition:
    name = answers.key.to_user_string()

    def submit(context: dg.AssetExecutionContext, claude: ClaudeResource, table: Any) -> dg.MaterializeResult[None]:  # noqa: ANN401
        with _in_words():
            job = cp.submit(table, name=name, store=claude.store_path(), client=claude.client(), **request)
        context.log.info(repr(job))
        return dg.MaterializeResult(metadata=submission_metadata(job.status(), claude.store_path()) | claude.describe())

    options: dict[str, Any] = {
        "key": answers.batch_key,
        "group_name": group_name,
        "kinds": {"claude"},
        "description": f"Sends every row as Message Batches. The answers come as `{name}`.",
    }
    if upstream is None:

        def submission(context: dg.AssetExecutionContext, claude: ClaudeResource) -> dg.MaterializeResult[None]:
            return submit(context, claude, source)

        return dg.asset(submission, **options)

    def submission_of(
        context: dg.AssetExecutionContext,
        claude: ClaudeResource,
        table: Any,  # noqa: ANN401  what the IO manager loads
    ) -> dg.MaterializeResult[None]:
        return submit(context, claude, table)

    return dg.asset(submission_of, ins={"table": dg.AssetIn(key=upstream)}, **options)


def _answers_asset(answers: Answers, *, group_name: str | None) -> dg.AssetsDefinition:
    key = answers.key
    spec = dg.AssetSpec(
        key,
        deps=[answers.batch_key],
        skippable=True,
        group_name=group_name,
        kinds={"claude", "parquet"} if answers.io_manager_key is None else {"claude", "pandas"},
        description="Every row of the input with its answer. Materialized by the sensor when the batches have ended.",
    )
    if answers.io_manager_key is not None:
        spec = spec.with_io_manager_key(answers.io_manager_key)

    @dg.multi_asset(name=key.to_python_identifier(), specs=[spec], check_specs=check_specs(key), can_subset=True)
    def collected(context: dg.AssetExecutionContext, claude: ClaudeResource) -> Iterator[Any]:
        with _in_words():
            status = answers.advance(context, claude)
            if status.state != "ended":
                key_name = key.to_user_string()
                context.log.info("%s has not ended. The sensor materializes %s when it has.", status.job_id, key_name)
                return
            result = answers.collect(status, claude)
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key, metadata=result.metadata, **result.value)
        for check in result.checks:
            if dg.AssetCheckKey(key, check.check_name or "") in context.selected_asset_check_keys:
                yield check

    return collected


@contextmanager
def _in_words() -> Iterator[None]:
    """Show an error of ours as one sentence; asking again by itself would not mend it."""
    try:
        yield
    except cp.PipelineError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
