"""What a person sees: press "Materialize all" in the Dagster page, touch nothing else, and find the answers."""

import shutil

import pytest
from dagster_server import dagster_dev, stop_sandbox, until
from playwright.sync_api import expect, sync_playwright


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser.new_page(viewport={"width": 1400, "height": 2600})
        browser.close()


@pytest.fixture
def folder(tmp_path):
    """Hold home, store and sandbox of one installation."""
    yield tmp_path
    stop_sandbox(tmp_path)


@pytest.mark.browser
@pytest.mark.timeout(1200)
def test_materialize_all_is_one_click_and_the_answers_come_by_themselves(folder, page):
    with dagster_dev(folder, batch_seconds=10) as dagster:
        page.goto(f"{dagster.url}/locations/claude_pipeline/asset-groups/standard_library")
        page.get_by_role("button", name="Materialize all").click(timeout=60_000)
        expect(page.get_by_text("Launched run").first).to_be_visible(timeout=60_000)
        until(lambda: dagster.materializations("longest_summaries"))
        page.set_viewport_size({"width": 1300, "height": 480})
        page.reload()
        expect(page.get_by_text("Materialized").nth(3)).to_be_visible(timeout=60_000)
        expect(page.get_by_text("Loading...")).to_have_count(0, timeout=60_000)
        page.screenshot(path=folder / "graph.png")
        page.set_viewport_size({"width": 1500, "height": 1250})
        page.goto(f"{dagster.url}/assets/summaries?view=overview")
        expect(page.get_by_text("claude/rows_succeeded")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("These are sandbox answers")).to_be_visible()
        expect(page.get_by_text("Helper class that provides")).to_be_visible()
        picture = page.get_by_role("img", name="1,000 answers")
        expect(picture).to_be_visible()
        assert picture.evaluate("picture => picture.naturalWidth") == 240
        page.get_by_text("Columns", exact=True).click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(1_000)  # it folds slowly
        page.screenshot(path=folder / "answers.png")
        page.get_by_text("Plots", exact=True).click()
        expect(page.get_by_text("claude/cost_usd").first).to_be_visible(timeout=60_000)
        page.screenshot(path=folder / "plots.png")
        page.goto(f"{dagster.url}/assets/summaries?view=checks")
        for check in ("every_row_once", "succeeded", "truncated", "refused"):
            expect(page.get_by_text(check, exact=True).first).to_be_visible(timeout=60_000)
        page.screenshot(path=folder / "checks.png")
