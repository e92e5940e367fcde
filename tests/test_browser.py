"""What a person sees: press "Materialize all" in the Dagster page, touch nothing else, and find the answers."""

import shutil

import pytest
from dagster_server import dagster_dev, until
from playwright.sync_api import expect, sync_playwright


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser.new_page(viewport={"width": 1400, "height": 2600})
        browser.close()


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_materialize_all_is_one_click_and_the_answers_come_by_themselves(tmp_path, page):
    with dagster_dev(tmp_path, batch_seconds=10) as dagster:
        page.goto(f"{dagster.url}/locations/claude_pipeline/asset-groups/standard_library")
        page.get_by_role("button", name="Materialize all").click(timeout=60_000)
        expect(page.get_by_text("Launched run").first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "graph.png")
        until(lambda: dagster.materializations("longest_summaries"))
        page.goto(f"{dagster.url}/assets/summaries?view=overview")
        expect(page.get_by_text("claude/rows_succeeded")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("These are sandbox answers")).to_be_visible()
        expect(page.get_by_text("Helper class that provides")).to_be_visible()
        page.screenshot(path=tmp_path / "answers.png")
        page.goto(f"{dagster.url}/assets/summaries?view=checks")
        expect(page.get_by_text("every_row_once").first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "checks.png")
