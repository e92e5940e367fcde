"""Submitting: from a table and a prompt to a job in the store. Nothing is sent before all of it is right."""

import os
from base64 import b32encode
from collections.abc import Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Required, TypedDict
from urllib.parse import urlsplit

import msgspec

from claude_pipeline.batches import make_client
from claude_pipeline.errors import InputError, MissingColumnError
from claude_pipeline.jobs import Job, Session, StorePath
from claude_pipeline.outputs import check_columns
from claude_pipeline.planning import Limits, Settings
from claude_pipeline.prompts import Template, build_form, check_unicode
from claude_pipeline.shards import MAX_BYTES, MAX_REQUESTS
from claude_pipeline.sources import Snapshot, Source, open_table, snapshot
from claude_pipeline.store import Store, find_store

if TYPE_CHECKING:
    from anthropic import Anthropic


class SubmitOptions(TypedDict, total=False):
    """What `submit` takes of requests and batches, for those who hand it on."""

    prompt_column: str | None
    template: str | None
    template_file: str | os.PathLike[str] | None
    model: Required[str]
    max_tokens: Required[int]
    system: str | None
    params: Mapping[str, object] | None
    id_column: str | None
    salt: str | None
    prefix: str
    limit: int | None
    max_batch_requests: int
    max_batch_bytes: int
    max_queued_requests: int
    max_attempts: int


def submit(
    source: Source,
    *,
    prompt_column: str | None = None,
    template: str | None = None,
    template_file: str | os.PathLike[str] | None = None,
    model: str,
    max_tokens: int,
    system: str | None = None,
    params: Mapping[str, object] | None = None,
    id_column: str | None = None,
    salt: str | None = None,
    name: str | None = None,
    store: StorePath = None,
    base_url: str | None = None,
    client: "Anthropic | None" = None,
    prefix: str = "",
    limit: int | None = None,
    max_batch_requests: int = MAX_REQUESTS,
    max_batch_bytes: int = MAX_BYTES,
    max_queued_requests: int = 200_000,
    max_attempts: int = 3,
) -> "Job":
    """Ask every row of a table, as Message Batches, and return the job; it plans and advances once.

    The same submit is the same job: running, finished or killed. Requests that the store has answers for, or has
    asked already, are not asked again.

    Args:
        source: A path, glob or list of Parquet or CSV files of one schema, a pandas DataFrame, a pyarrow Table, or
            anything with the Arrow PyCapsule interface (Polars, DuckDB).
        prompt_column: The text column that is the prompt.
        template: Text with column names in braces, instead of `prompt_column`.
        template_file: A UTF-8 file with such a template; one newline at its end is not part of it.
        model: A model's id, such as `claude-haiku-4-5`.
        max_tokens: The longest answer, in tokens.
        system: The system prompt.
        params: Any other parameter of the Messages API, by name.
        id_column: A column that names rows in messages.
        salt: Any text; another one asks the same requests afresh.
        name: What to call the job in lists.
        store: The folder of ledger, inputs and results; else CLAUDE_PIPELINE_STORE, else the nearest
            `.claude_pipeline` upwards, else a new one here.
        base_url: Where the API is, if not where the SDK looks.
        client: An `anthropic.Anthropic` to use.
        prefix: Put before the names of the columns that are added.
        limit: Ask only the first so many rows.
        max_batch_requests: Requests in a batch, at most 100,000.
        max_batch_bytes: Bytes of a batch, at most 256,000,000.
        max_queued_requests: Requests of the account that may be processed at once; the rest goes in waves.
        max_attempts: How often a request that may pass is sent.

    Raises:
        InputError: The table, the template or a parameter cannot become requests.
        CredentialsError: There is no API key.
        ApiError: The API refuses the credentials.
        StoreError: The store cannot be written.
    """
    limits = Limits(max_batch_requests, max_batch_bytes, max_queued_requests, max_attempts)
    _check_limits(limits)
    check_unicode("name", name or "")
    check_unicode("prefix", prefix)
    text = _one_template(prompt_column, template, template_file)
    place = base_url or (str(client.base_url) if client else None)
    _check_base_url(place)
    with closing(open_table(source)) as table:
        client = client or make_client(base_url)
        opened = Store(find_store(store))
        taken = snapshot(table, opened.new_input_path(), limit=limit, mode=opened.file_mode)
    try:
        check_columns(taken.schema, prefix=prefix, source=taken.label)
        parsed = _parse(taken, prompt_column, text)
        form = build_form(parsed, model=model, max_tokens=max_tokens, system=system, params=params, salt=salt)
        _check_id_column(taken, id_column)
        settings = Settings(taken.label, form, model, id_column, prefix, place, limits)
        session = Session.start(opened, client)
        job_id = _job_id(opened.ledger.account_name(session.account), name, taken.digest, settings)
        opened.keep_input(taken.path, job_id)
    finally:
        taken.path.unlink(missing_ok=True)
    opened.ledger.add_job(job_id, account=session.account, name=name, settings=settings, rows=taken.rows)
    job = Job(opened, job_id, client=client, session=session)
    job.advance()
    return job


def _check_limits(limits: Limits) -> None:
    for name, most in (("max_batch_requests", MAX_REQUESTS), ("max_batch_bytes", MAX_BYTES)):
        if not 1 <= getattr(limits, name) <= most:
            raise InputError(f"{name} is {getattr(limits, name):,}. A Message Batch takes from 1 to {most:,}.")
    for name in ("max_queued_requests", "max_attempts"):
        if getattr(limits, name) < 1:
            raise InputError(f"{name} is {getattr(limits, name):,}. It must be at least 1.")


def _check_base_url(base_url: str | None) -> None:
    try:
        parts = urlsplit(base_url or "")
    except ValueError as error:
        raise InputError(f"The base URL is none ({error}).") from None
    if parts.username is not None or parts.password is not None:
        raise InputError("The base URL holds credentials, which the store would keep. Set ANTHROPIC_BASE_URL instead.")


def _one_template(
    prompt_column: str | None, template: str | None, template_file: str | os.PathLike[str] | None
) -> str | None:
    given = [value for value in (prompt_column, template, template_file) if value is not None]
    if len(given) != 1:
        raise InputError("Give one of prompt_column=, template= and template_file=, and only one.")
    if template_file is None:
        return template
    try:
        return Path(template_file).expanduser().read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the template file {template_file}: {error}.") from error


def _parse(taken: Snapshot, prompt_column: str | None, text: str | None) -> Template:
    if text is None:
        return Template.of_column(prompt_column or "", schema=taken.schema, source=taken.label)
    template = Template.parse(text, columns=taken.schema.names, source=taken.label)
    template.check_types(taken.schema)
    return template


def _job_id(account: str, name: str | None, digest: str, settings: Settings) -> str:
    form = settings.form
    parts = [account, name, digest, settings.prefix, form.template, form.header, form.prefix, form.suffix]
    address = blake2b(msgspec.json.encode(parts), digest_size=10).digest()
    return f"job_{b32encode(address).decode().lower()}"


def _check_id_column(taken: Snapshot, id_column: str | None) -> None:
    if id_column is not None and id_column not in taken.schema.names:
        raise MissingColumnError(id_column, source=taken.label, columns=taken.schema.names)
