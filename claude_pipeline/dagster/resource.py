"""Where credentials and the store are told, once for a code location."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

import claude_pipeline as cp

if TYPE_CHECKING:
    from anthropic import Anthropic

_NO_CREDENTIALS = (
    "No credentials for the Anthropic API. Set ANTHROPIC_API_KEY where runs are executed, or pass api_key= to "
    "ClaudeResource."
)


class ClaudeResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # Dagster's own base is generic in itself
    """The Anthropic API and the store of jobs and answers, for assets and sensors.

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

    @classmethod
    def _is_dagster_maintained(cls) -> bool:
        return False

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Fail a run without credentials before its inputs are loaded."""
        if context.run is None:
            return
        try:
            self.client().close()
        except cp.CredentialsError:
            raise dg.DagsterError(_NO_CREDENTIALS) from None  # Dagster shows no other error's text first

    def client(self) -> "Anthropic":
        """Return the SDK's client, with this resource's credentials.

        Raises:
            CredentialsError: There are none.
        """
        return cp.make_client(api_key=self.api_key, base_url=self.base_url)

    def store_path(self) -> Path:
        """Return the store's folder."""
        return cp.find_store(self.store)

    def open_job(self, job_id: str) -> "cp.Job":
        """Open a job of the store."""
        return cp.open_job(job_id, store=self.store_path(), client=self.client())

    def resume_command(self, job_id: str) -> str:
        """Return what to type when a blocked job may go on."""
        return shlex.join(["claude-pipeline", "resume", job_id, "--store", str(self.store_path())])

    def answers_path(self, key: str) -> Path:
        """Return where the answers of an asset are, unless `build_batch_defs` was given another path."""
        return self.store_path() / "answers" / f"{key.replace('/', '__')}.parquet"

    def describe(self) -> dict[str, Any]:
        """Return what the metadata of assets says of who answers: nothing, as it is the API."""
        return {}
