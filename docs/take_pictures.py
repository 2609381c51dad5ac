"""Take the screenshots of docs/tour.md: a running local stack, a chat server, a corpus report.

make local                          # and at least two finished pretrain runs
make serve                          # the demo's chat model
.venv/bin/python docs/take_pictures.py --report data/report_corpus/<artifact>/report.html
.venv/bin/python docs/take_pictures.py --only chat
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
QUESTIONS = (
    "Hello! Who are you?",
    "Tell me a story about Anna.",
    "On Monday, Lucy went to the market by bus.\nHow did Lucy go to the market?",
)
ANSWER_MILLISECONDS = 300_000
SETTLE_MILLISECONDS = 6_000  # the pages draw their graphs after they have loaded


def post(url: str, body: dict[str, Any]) -> Any:
    """Return the JSON answer of a server to a JSON question."""
    request = urllib.request.Request(  # noqa: S310 - the servers of the local stack
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def prefect_pages(prefect: str) -> dict[str, str]:
    """Return the pages of the newest finished pretrain run and of a deployment's form."""
    chosen = {
        "flows": {"name": {"any_": ["pretrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    (run,) = post(f"{prefect}/api/flow_runs/filter", chosen)
    named = {"deployments": {"name": {"any_": ["demo"]}}, "limit": 1}
    (deployment,) = post(f"{prefect}/api/deployments/filter", named)
    return {
        "prefect-run": f"{prefect}/runs/flow-run/{run['id']}",
        "prefect-form": f"{prefect}/deployments/deployment/{deployment['id']}/run",
    }


def comparison_page(mlflow: str) -> str:
    """Return the page that compares the newest two trainings of base models."""
    api = f"{mlflow}/api/2.0/mlflow"
    (experiment,) = [
        item
        for item in post(f"{api}/experiments/search", {"max_results": 50})["experiments"]
        if item["name"] == "llm-from-scratch"
    ]
    number = experiment["experiment_id"]
    question = {
        "experiment_ids": [number],
        "filter": "tags.`llm.artifact` LIKE 'train_model/base-%'",
        "max_results": 2,
    }
    runs = [run["info"]["run_id"] for run in post(f"{api}/runs/search", question)["runs"]]
    query = f"runs={json.dumps(runs)}&experiments={json.dumps([number])}".replace(" ", "")
    return f"{mlflow}/#/compare-runs?{query}"


def take_chat(page: Page, url: str) -> None:
    """Save a screenshot of the chat page after two questions."""
    page.set_viewport_size({"width": 900, "height": 700})
    page.goto(url)
    for number, question in enumerate(QUESTIONS, start=1):
        page.get_by_label("Message", exact=True).fill(question)
        page.keyboard.press("Enter")
        page.locator(".assistant .note").nth(number - 1).wait_for(timeout=ANSWER_MILLISECONDS)
    page.screenshot(path=PICTURES / "chat-page.png")


def take_comparison(page: Page, url: str) -> None:
    """Save a screenshot of two compared runs: settings that differ, then metrics."""
    page.set_viewport_size({"width": 1400, "height": 1190})
    page.goto(url)
    page.get_by_text("Run details", exact=True).wait_for()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.get_by_role("button", name="Close").first.click()  # of an assistant that takes a third
    for section in ("Visualizations", "Run details"):
        page.get_by_text(section, exact=True).click()
    page.get_by_role("switch").first.click()  # of the settings, only those that differ
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=PICTURES / "mlflow-compare.png")


def take_report(page: Page, report: Path) -> None:
    """Save a screenshot of the top of a corpus report."""
    page.set_viewport_size({"width": 1100, "height": 1500})
    page.goto(report.absolute().as_uri())
    page.screenshot(path=PICTURES / "corpus-report.png")


def take(page: Page, name: str, url: str) -> None:
    """Save a screenshot of one page."""
    page.goto(url)
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.screenshot(path=PICTURES / f"{name}.png")


def main() -> None:
    """Take all screenshots, or those of one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--prefect", default="http://127.0.0.1:4200")
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    parser.add_argument("--chat", default="http://127.0.0.1:8000")
    parser.add_argument("--report", type=Path, help="page of a corpus report")
    parser.add_argument("--only", choices=("stack", "chat", "report"))
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        if options.only in (None, "stack"):
            for name, url in prefect_pages(options.prefect).items():
                take(page, name, url)
            take_comparison(page, comparison_page(options.mlflow))
        if options.only in (None, "chat"):
            take_chat(page, options.chat)
        if options.report:
            take_report(page, options.report)
        browser.close()


if __name__ == "__main__":
    main()
