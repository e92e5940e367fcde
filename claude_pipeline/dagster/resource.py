"""Where credentials and the store are told, once for a code location."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, model_validator

import claude_pipeline as cp
from claude_pipeline.dagster.partitions import partition_file
from claude_pipeline.dagster.usage import Context, metered
from claude_pipeline.keywords import nearest
from claude_pipeline.places import Place
from claude_pipeline.postgres import without_password

if TYPE_CHECKING:
    from anthropic import Anthropic

_NO_CREDENTIALS = (
    "No credentials for the Anthropic API. Set ANTHROPIC_API_KEY where runs are executed, or pass api_key= to "
    "ClaudeResource."
)


class ClaudeResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # Dagster's own base is generic in itself
    """The Anthropic API and the store of jobs and answers, for assets, ops and sensors.

    Without credentials a run fails before anything is read; a sandbox never takes the API's place by itself.

    Examples:
        .. code-block:: python

            import dagster as dg
            from claude_pipeline.dagster import ClaudeResource

            defs = dg.Definitions(resources={"claude": ClaudeResource(api_key=dg.EnvVar("ANTHROPIC_API_KEY"))})
    """

    api_key: str | None = Field(
        default=None, description="The API key; without it the SDK's own sources, ANTHROPIC_API_KEY first."
    )
    base_url: str | None = Field(default=None, description="Where the API is, if not where the SDK looks.")
    store: str | None = Field(
        default=None,
        description="The folder of ledger, inputs and results; without it CLAUDE_PIPELINE_STORE, else the nearest "
        ".claude_pipeline upwards.",
    )
    ledger_url: str | None = Field(
        default=None,
        description="The PostgreSQL URL of the store's ledger, an EnvVar if it has a password; without it "
        "CLAUDE_PIPELINE_LEDGER, else a file in the store.",
    )
    max_queued_requests: int | None = Field(
        default=None, ge=1, description="Requests of the account that may be processed at once; the rest goes in waves."
    )
    max_attempts: int | None = Field(default=None, ge=1, description="How often a request that may pass is sent.")
    budget_usd: float | None = Field(
        default=None,
        gt=0,
        description="Dollars that all jobs of the store may cost the account; what could cost more waits.",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:  # noqa: ANN401  whatever pydantic is given
        """Refuse a field that there is not: Dagster would pass over a misspelled budget."""
        for name in given.keys() - cls.model_fields.keys():
            raise TypeError(f"ClaudeResource has no field {name!r}.{nearest(name, cls.model_fields)}")
        return given

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Fail a run without credentials before its inputs are loaded."""
        if context.run is None:
            return
        try:
            self._connect().close()
        except cp.CredentialsError:
            raise dg.DagsterError(_NO_CREDENTIALS) from None  # Dagster shows no other error's text first

    def client(self, context: Context | None = None, *, asset_key: dg.AssetKey | None = None) -> "Anthropic":
        """Return the SDK's client, with this resource's credentials, for assets and ops of one's own.

        Args:
            context: Of an asset or op whose page should show the calls, tokens and dollars.
            asset_key: Whose page, if the step makes several assets.

        Raises:
            CredentialsError: There are none.
            InputError: The step makes several assets, and `asset_key` is missing.

        Examples:
            .. code-block:: python

                @dg.asset
                def headline(context: dg.AssetExecutionContext, claude: ClaudeResource) -> str:
                    ask = {"role": "user", "content": "A headline for today."}
                    with claude.client(context) as client:
                        message = client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=[ask])
                    return message.content[0].text
        """
        client = self._connect()
        return client if context is None else metered(client, context, asset_key)

    def _connect(self) -> "Anthropic":
        return cp.make_client(api_key=self.api_key, base_url=self.base_url)

    def limits(self) -> dict[str, Any]:
        """Return what holds for every submission that says nothing else."""
        limits = {"max_queued_requests": self.max_queued_requests, "max_attempts": self.max_attempts}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def keep_budget(self) -> None:
        """Tell the store its budget, if there is one."""
        if self.budget_usd is not None:
            cp.set_budget(self.budget_usd, store=self.store_path(), ledger=self.ledger_url)

    def store_path(self) -> Place:
        """Return the store's folder, or its URL."""
        return cp.find_store(self.store)

    @contextmanager
    def open_job(self, job_id: str) -> Iterator["cp.Job"]:
        """Open a job of the store, with a client that is closed when the body is done."""
        with self.client() as client:
            yield cp.open_job(job_id, store=self.store_path(), ledger=self.ledger_url, client=client)

    def resume_command(self, job_id: str) -> str:
        """Return what to type when a blocked job may go on."""
        words = ["claude-pipeline", "resume", job_id, "--store", str(self.store_path())]
        words += ["--ledger", without_password(self.ledger_url)] if self.ledger_url else []
        return shlex.join(words)

    def answers_path(self, key: str, partition: str | None = None) -> Place:
        """Return where the answers of an asset are, unless `build_batch_defs` was given another path."""
        name = key.replace("/", "__")
        folder = self.store_path() / "answers"
        return folder / f"{name}.parquet" if partition is None else folder / name / partition_file(partition)

    def describe(self) -> dict[str, Any]:
        """Return what the metadata of assets says of who answers: nothing, as it is the API."""
        return {}
