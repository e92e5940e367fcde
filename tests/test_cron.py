"""The examples for cron and systemd, in the environment that these give: nearly none."""

import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from conftest import submit_to

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
UNITS = [ROOT / "examples" / f"claude-pipeline-advance.{kind}" for kind in ("service", "timer")]


def unit(path):
    parsed = ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str
    parsed.read(path)
    return parsed


@pytest.fixture
def job(sandbox, tmp_path):
    return submit_to(sandbox, ["one"], store=tmp_path / "answers")


def bare(words, **environment):
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_the_crontab_line_works_with_what_cron_gives(sandbox, job, tmp_path):
    variables = dict(
        re.findall(r"^([A-Z_]+)=(.*)$", re.search(r"```crontab\n(.*?)```", PAGE, re.DOTALL)[1], re.MULTILINE)
    )
    (line,) = re.findall(r"^\*/5 \* \* \* \* +(.*)$", PAGE, re.MULTILINE)
    places = {"/srv/answers": str(job._store.path), "/opt/claude-pipeline/bin": str(BIN), "$HOME": str(tmp_path)}
    for place, ours in places.items():
        line = line.replace(place, ours)
    assert variables.keys() == {"ANTHROPIC_API_KEY", "CLAUDE_PIPELINE_STORE"}
    variables |= {"CLAUDE_PIPELINE_STORE": str(job._store.path), "ANTHROPIC_BASE_URL": sandbox.url}
    variables["ANTHROPIC_API_KEY"] = "sandbox"
    (job._store.path / "notify.sh").write_text("#!/bin/sh\ncat > told.json\n")
    (job._store.path / "notify.sh").chmod(0o755)
    ran = bare(["/bin/sh", "-c", line], HOME=str(tmp_path), PATH="/usr/bin:/bin", SHELL="/bin/sh", **variables)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    log = [json.loads(text) for text in (tmp_path / "claude-pipeline.log").read_text().splitlines()]
    assert "job.ended" in {event["event"] for event in log}
    assert json.loads((job._store.path / "told.json").read_text())["state"] == "ended"


def test_the_services_command_works_with_what_systemd_gives(sandbox, job):
    service = unit(UNITS[0])["Service"]
    command = (
        service["ExecStart"].replace("/opt/claude-pipeline/bin", str(BIN)).replace("/srv/answers/notify.sh", "true")
    )
    variables = dict(pair.split("=") for pair in service["Environment"].split())
    variables["CLAUDE_PIPELINE_STORE"] = str(job._store.path)
    ran = bare(command.split(), ANTHROPIC_API_KEY="sandbox", ANTHROPIC_BASE_URL=sandbox.url, **variables)
    assert ran.returncode == 0, ran.stderr
    assert {"job.ended", "job.announced"} <= {json.loads(line)["event"] for line in ran.stderr.splitlines()}
    assert job.status().state == "ended"


def test_the_units_belong_together_and_run_once_at_a_time():
    service, timer = map(unit, UNITS)
    assert service["Service"]["Type"] == "oneshot"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert UNITS[0].stem == UNITS[1].stem
    assert all(f"examples/{path.name}" in PAGE for path in UNITS)


def test_systemd_finds_no_fault_in_the_units(tmp_path):
    analyze = shutil.which("systemd-analyze")
    for path in UNITS if analyze else ():
        text = path.read_text().replace("/opt/claude-pipeline/bin", str(BIN)).replace("User=etl", "User=root")
        (tmp_path / path.name).write_text(text)
    if analyze:
        ran = subprocess.run(
            [analyze, "verify", *(str(tmp_path / path.name) for path in UNITS)],
            env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert path.stem not in ran.stderr
