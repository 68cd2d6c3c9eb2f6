"""Where things are in a plotly figure on a page."""

import time
from typing import Any

WHERE = """(figure, [x, y]) => {
  figure.scrollIntoView({block: "center"});
  const box = figure.getBoundingClientRect(), layout = figure._fullLayout;
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(x),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(y)];
}"""


# The time that each playhead shows, or null where it is hidden.
PLAYHEADS = """[...document.querySelectorAll(".playhead")].map((line) => {
  const axis = line.parentElement._fullLayout.xaxis;
  return line.style.display === "block"
    ? axis.p2d(parseFloat(line.style.left) - axis._offset) : null;
})"""
ATTEMPTS = 8


def click(page: Any, figure: Any, x: float, y: float, until: str) -> None:
    """Click on a figure's point (x, y), in its own units, until a condition in the page holds.

    A figure that is being drawn takes no clicks, so on a slow machine the first may be lost.
    """
    for _ in range(ATTEMPTS):
        left, top = figure.evaluate(WHERE, [x, y])
        page.mouse.move(left, top)
        page.wait_for_timeout(300)  # plotly finds what is under the pointer
        page.mouse.click(left, top)
        if holds(page, until, seconds=4):
            return
    raise AssertionError(f"after {ATTEMPTS} clicks still not: {until}")


def holds(page: Any, condition: str, seconds: float = 300) -> bool:
    """Whether a condition in the page comes to hold; the reports' own policy forbids it `eval`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if page.evaluate(condition):
            return True
        page.wait_for_timeout(100)
    return False


def playhead_near(seconds: float) -> str:
    """The condition that every playhead is shown at this time, and there is one."""
    return (
        f"(() => {{ const shown = {PLAYHEADS}; return shown.length > 0 && "
        f"shown.every((t) => t !== null && Math.abs(t - {seconds}) < 0.05); }})()"
    )


def in_view(words: str) -> str:
    """The condition that a text is in the window, without scrolling."""
    return (
        "[...document.querySelectorAll('div')].some((div) => { const box = div.getBoundingClientRect(); "
        f"return div.textContent.startsWith({words!r}) && box.height > 0 && box.top >= 0 "
        "&& box.bottom <= window.innerHeight; })"
    )


def overflow(page: Any) -> float:
    """How many pixels of the page are wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
