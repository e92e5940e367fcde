"""What a person sees: press "Materialize all" in the Dagster page, touch nothing else, and find the answers."""

import shutil

import pytest
from dagster_server import dagster_dev
from playwright.sync_api import expect, sync_playwright

PATIENCE_MS = 240_000


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_materialize_all_is_one_click_and_the_answers_come_by_themselves(tmp_path, page):
    with dagster_dev(tmp_path, batch_seconds=10) as dagster:
        page.goto(f"{dagster.url}/locations/claude_pipeline/asset-groups/standard_library")
        page.get_by_role("button", name="Materialize all").click(timeout=60_000)
        expect(page.get_by_text("Launched run").first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "graph.png")
        page.goto(f"{dagster.url}/assets/summaries?view=overview")
        expect(page.get_by_text("claude/rows_succeeded").first).to_be_visible(timeout=PATIENCE_MS)
        expect(page.get_by_text("These are sandbox answers").first).to_be_visible()
        expect(page.get_by_role("cell", name="abc.ABC").or_(page.get_by_text("Helper class that provides")).first).to_be_visible()
        page.screenshot(path=tmp_path / "answers.png", full_page=True)
        page.goto(f"{dagster.url}/assets/summaries?view=checks")
        expect(page.get_by_text("every_row_once").first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("Passed").first).to_be_visible()
        page.screenshot(path=tmp_path / "checks.png")
        page.goto(f"{dagster.url}/automation")
        page.wait_for_timeout(3000)
        page.screenshot(path=tmp_path / "automation.png")
        page.goto(f"{dagster.url}/locations/claude_pipeline/sensors/summaries_sensor")
        page.wait_for_timeout(3000)
        page.screenshot(path=tmp_path / "sensor.png")
        page.goto(f"{dagster.url}/locations/claude_pipeline/asset-groups/standard_library")
        page.wait_for_timeout(5000)
        page.screenshot(path=tmp_path / "graph2.png")
