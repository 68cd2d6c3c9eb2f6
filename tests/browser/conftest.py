"""A real Chromium, and what it complains of."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIZES = {"desktop": (1440, 900), "laptop": (1024, 700)}
# A notebook's front end gives a figure two seconds to load plotly and complains on a slow machine;
# the figure appears all the same, which the tests check.
HARMLESS = ("[anywidget] Failed to initialize model",)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A running browser; without one, these tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.skip(f"none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = driver.chromium.launch(executable_path=found[0], args=arguments)
        yield browser
        browser.close()


@pytest.fixture(params=list(SIZES))
def page(request: pytest.FixtureRequest, chromium: Any) -> Iterator[Any]:
    """A page of one size, whose errors fail the test; `page.keep(name)` takes a picture."""
    width, height = SIZES[request.param]
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(300_000)  # a kernel that imports torch on a busy machine takes long
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    pictures = Path(str(request.config.rootpath)) / "build" / "screenshots"

    def keep(name: str, full_page: bool = True) -> None:
        pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=pictures / f"{name}-{request.param}.png", full_page=full_page)

    page.keep, page.complaints = keep, complaints
    yield page
    page.close()
    assert [c for c in complaints if not c.startswith(HARMLESS)] == []
