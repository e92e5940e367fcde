"""Alerts: a function of the user's own hears of runs that failed and of checks that did not pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody should look at.

    Attributes:
        title: `labels_submit_job failed`, or `Check truncated of labels did not pass`.
        text: Why, in words.
        severity: ERROR for a run, and for a check that held up what is downstream; else WARN.
        run_id: The run, whose page is `/runs/<run_id>`.
    """

    title: str
    text: str
    severity: dg.AssetCheckSeverity
    run_id: str


def build_alert_defs(notify: Callable[[Alert], None], *, name: str = "claude_alerts") -> dg.Definitions:
    """Build two sensors that tell a function of each failed run and failed check of the code location.

    A function that raises is called again at the next tick.

    Args:
        notify: Posts to a chat, sends a mail, opens a ticket.
        name: What the sensors are called.

    Examples:
        .. code-block:: python

            def post(alert: Alert) -> None:
                body = json.dumps({"text": f"{alert.title}: {alert.text}"}).encode()
                urlopen(Request(os.environ["WEBHOOK_URL"], body, {"Content-Type": "application/json"}))

            defs = dg.Definitions.merge(build_batch_defs(...), build_alert_defs(post))
    """

    @dg.run_failure_sensor(name=f"{name}_of_runs", default_status=dg.DefaultSensorStatus.RUNNING)
    def of_runs(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        words = " ".join(dict.fromkeys(_reasons(context))) or context.failure_event.message or "It says nothing."
        notify(Alert(f"{run.job_name} failed", words, dg.AssetCheckSeverity.ERROR, run.run_id))
        _tell_of_checks(context, notify)

    @dg.run_status_sensor(
        name=f"{name}_of_checks",
        run_status=dg.DagsterRunStatus.SUCCESS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def of_checks(context: dg.RunStatusSensorContext) -> None:
        _tell_of_checks(context, notify)

    return dg.Definitions(sensors=[of_runs, of_checks])


def _reasons(context: dg.RunFailureSensorContext) -> Iterator[str]:
    for event in context.get_step_failure_events():
        failure = event.step_failure_data
        said = failure.user_failure_data
        if said and said.description:
            yield said.description
        elif failure.error:
            yield failure.error.message.strip()


def _tell_of_checks(context: dg.RunStatusSensorContext, notify: Callable[[Alert], None]) -> None:
    run_id = context.dagster_run.run_id
    entries = context.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    for entry in entries:
        check = entry.dagster_event.asset_check_evaluation_data if entry.dagster_event else None
        if check and not check.passed:
            title = f"Check {check.check_name} of {check.asset_key.to_user_string()} did not pass"
            notify(Alert(title, check.description or "", check.severity, run_id))
