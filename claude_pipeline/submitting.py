"""Submitting: from a table and a prompt to a job in the store. Nothing is sent before all of it is right."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from claude_pipeline.caching import Block, Cache
from claude_pipeline.derived import Content, answer_options
from claude_pipeline.errors import MissingColumnError, TooManyRowsError
from claude_pipeline.estimating import estimate
from claude_pipeline.forms import RequestOptions, build_form
from claude_pipeline.jobs import Job
from claude_pipeline.keywords import named
from claude_pipeline.outputs import check_columns
from claude_pipeline.parameters import check_params
from claude_pipeline.retrying import Retry, read_retries
from claude_pipeline.schemas import read_schema
from claude_pipeline.sessions import Session, StorePath
from claude_pipeline.settings import Limits, Mode, Settings, check_limits
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS
from claude_pipeline.sources import Snapshot, Source, open_table, snapshot
from claude_pipeline.starting import start
from claude_pipeline.store import Store, find_store
from claude_pipeline.traces import span
from claude_pipeline.transport import body_encoding, check_base_url, make_client
from claude_pipeline.values import check_unicode

if TYPE_CHECKING:
    from anthropic import Anthropic


class SubmitOptions(RequestOptions, total=False):
    """What `submit` takes of requests and batches, for those who hand it on; see `submit`."""

    content: Content | None
    on_invalid: Retry | None
    on_truncated: Retry | None
    id_column: str | None
    prefix: str
    limit: int | None
    preflight: bool
    max_cost_usd: float | None
    prime_cache: bool
    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int
    max_attempts: int


@named()
def submit(
    source: Source,
    *,
    prompt_column: str | None = None,
    template: str | None = None,
    template_file: str | os.PathLike[str] | None = None,
    messages_column: str | None = None,
    images: Sequence[str] = (),
    documents: Sequence[str] = (),
    model: str | None = None,
    max_tokens: int | None = None,
    system: str | Sequence[Block] | None = None,
    system_file: str | os.PathLike[str] | None = None,
    params: Mapping[str, object] | None = None,
    params_columns: Mapping[str, str] | None = None,
    betas: Sequence[str] = (),
    cache: Cache | None = None,
    output_schema: object = None,
    content: Content | None = None,
    on_invalid: Retry | None = None,
    on_truncated: Retry | None = None,
    prime_cache: bool = False,
    fill_null: str | None = None,
    salt: str | None = None,
    salt_column: str | None = None,
    id_column: str | None = None,
    name: str | None = None,
    store: StorePath = None,
    ledger: str | None = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    prefix: str = "",
    limit: int | None = None,
    preflight: bool = True,
    max_cost_usd: float | None = None,
    max_batch_requests: int = MAX_REQUESTS,
    max_batch_bytes: int = MAX_BYTES,
    max_queued_requests: int = 200_000,
    max_attempts: int = 3,
) -> "Job":
    """Ask every row of a table, as Message Batches, and return the job; it plans and advances once.

    The same submit is the same job: running, finished or killed. Requests that the store has answers for, or has
    asked already, are not asked again.

    Args:
        source: A path, glob or list of Parquet or CSV files of one schema, here or on S3 or GCS (s3://, gs://); a
            pandas DataFrame, a pyarrow Table, or anything with the Arrow PyCapsule interface (Polars, DuckDB).
        prompt_column: The text column that is the prompt.
        template: Text with column names in braces, instead of `prompt_column`.
        template_file: A UTF-8 file with such a template; one newline at its end is not part of it.
        messages_column: A column of conversations, each a list of `{role, content}`: an Arrow list of structs, JSON
            text or Python lists. The prompt, if there is one, is the next turn.
        images: Columns of images: bytes, a local path or a URL, or a list of these.
        documents: The same for documents: PDF or text.
        model: A model's id, such as `claude-haiku-4-5`.
        max_tokens: The longest answer, in tokens.
        system: The system prompt, which may have fields as a template has, or a list of the API's text blocks.
        system_file: A UTF-8 file with a system prompt.
        params: Any other parameter of the Messages API, by name.
        params_columns: Parameters that a row brings along: by name, the column. Where that is null, what holds for
            all rows takes its place.
        betas: Beta features of the API to ask with.
        cache: Cache the tools, the system prompt and the template's fixed beginning for "5m" or "1h".
        output_schema: What an answer must look like: a pydantic model, a dataclass, a JSON schema,
            `{"sentiment": "positive|negative", "score": float}` or the same as text. Its properties become typed
            columns.
        content: "json" adds a column `content` with all blocks of an answer.
        on_invalid: "retry" asks rows whose answer does not fit the schema again, at most twice, and pays for each.
        on_truncated: "retry" does the same with rows whose answer was cut off, with twice the `max_tokens` each time.
        prime_cache: Send one request ahead, so that the others find the cache filled.
        fill_null: What stands for a null in a field. Without it a row with a null is not sent.
        salt: Any text; another one asks the same requests afresh.
        salt_column: The same, row by row: several samples of one prompt.
        id_column: A column that names rows in messages.
        name: What to call the job in lists.
        store: The folder of ledger, inputs and results, or a URL on S3 or GCS (which needs `ledger`); else
            CLAUDE_PIPELINE_STORE, else the nearest `.claude_pipeline` upwards, else a new one here.
        ledger: The URL of a PostgreSQL database, or "sqlite", the file in the store; else CLAUDE_PIPELINE_LEDGER, else
            that file.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        prefix: Put before the names of the columns that are added.
        limit: Ask only the first so many rows.
        preflight: Show the first request to the free `count_tokens` endpoint before anything is sent.
        max_cost_usd: Dollars that the job may cost. What could cost more waits, and is refused before anything is
            sent if it is sure to.
        max_batch_requests: Requests in a batch, at most 100,000.
        max_batch_bytes: Bytes of a batch, at most 256,000,000.
        max_queued_requests: Requests of the account that may be processed at once; the rest goes in waves.
        max_attempts: How often a request that may pass is sent.

    Raises:
        InputError: The table, the template or a parameter cannot become requests, or the API would refuse them.
        CredentialsError: There is no API key.
        ApiError: The API refuses the credentials.
        StoreError: The store cannot be written.
    """
    limits = Limits(max_batch_requests, max_batch_bytes, max_queued_requests, max_attempts, prime_cache, max_cost_usd)
    request: RequestOptions = {
        "prompt_column": prompt_column,
        "template": template,
        "template_file": template_file,
        "messages_column": messages_column,
        "images": images,
        "documents": documents,
        "model": model,
        "max_tokens": max_tokens,
        "system": system,
        "system_file": system_file,
        "params": params,
        "params_columns": params_columns,
        "betas": betas,
        "cache": cache,
        "output_schema": output_schema,
        "fill_null": fill_null,
        "salt": salt,
        "salt_column": salt_column,
    }
    asked = Asked(request, limits, content, on_invalid, on_truncated, id_column, prefix, name)
    with span("submit") as opened:
        job = begin(
            source,
            asked,
            store=store,
            ledger=ledger,
            base_url=base_url,
            client=client,
            limit=limit,
            preflight=preflight,
        )
        opened.note(job_id=job.job_id)
        job.advance()
    return job


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a table, and how its answers are wanted."""

    request: RequestOptions
    limits: Limits
    content: Content | None = None
    on_invalid: Retry | None = None
    on_truncated: Retry | None = None
    id_column: str | None = None
    prefix: str = ""
    name: str | None = None
    mode: Mode = "batch"
    max_rows: int | None = None

    def settings(self, taken: Snapshot, place: str | None) -> Settings:
        """Fix it for a table.

        Raises:
            InputError: The table, the template or a parameter cannot become requests.
        """
        request, schema = self.request, self.request.get("output_schema")
        form = build_form(taken.schema, source=taken.label, folder=Path.cwd(), **request)
        columns = request.get("params_columns") or {}
        answers = answer_options(
            params=request.get("params"),
            params_columns=columns,
            output_schema=None if schema is None else read_schema(schema),
            content=self.content,
        )
        check_columns(taken.schema, form, prefix=self.prefix, source=taken.label, answers=answers)
        _check_id_column(taken, self.id_column)
        model = request.get("model") or f"{{{columns['model']}}}"
        retries = read_retries(on_invalid=self.on_invalid, on_truncated=self.on_truncated, answers=answers)
        return Settings(
            taken.label, form, model, self.id_column, self.prefix, place, self.limits, answers, self.mode, retries
        )


def begin(
    source: Source,
    asked: Asked,
    *,
    store: StorePath,
    ledger: str | None,
    base_url: str | None,
    client: "Anthropic | None",
    limit: int | None,
    preflight: bool,
) -> "Job":
    """Make a table a job that is still to be planned. Errors: as `submit`."""
    check_limits(asked.limits)
    check_unicode("name", asked.name or "")
    check_unicode("prefix", asked.prefix)
    place = base_url or (str(client.base_url) if client else None)
    check_base_url(place)
    body_encoding()
    with closing(open_table(source)) as table:
        client = client or make_client(base_url)
        opened = Store(find_store(store), ledger)
        taken = snapshot(table, opened.new_input_path(), limit=limit, mode=opened.file_mode)
    try:
        if asked.max_rows is not None and taken.rows > asked.max_rows:
            raise TooManyRowsError(source=taken.label, rows=taken.rows, max_rows=asked.max_rows)
        settings = asked.settings(taken, place)
        check_params(client, asked.request)
        session = Session.start(opened, client)
        estimated = partial(estimate, taken.path, store=opened.path, ledger=ledger, client=client, **asked.request)
        job_id = start(opened, session, taken, settings, name=asked.name, preflight=preflight, estimated=estimated)
    finally:
        taken.path.unlink(missing_ok=True)
    return Job(opened, job_id, client=client, session=session)


def _check_id_column(taken: Snapshot, id_column: str | None) -> None:
    if id_column is not None and id_column not in taken.schema.names:
        raise MissingColumnError(id_column, source=taken.label, columns=taken.schema.names)
