"""Where things are in a plotly figure on a page."""

from typing import Any

WHERE = """(figure, [x, y]) => {
  figure.scrollIntoView({block: "center"});
  const box = figure.getBoundingClientRect(), layout = figure._fullLayout;
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(x),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(y)];
}"""


def click(page: Any, figure: Any, x: float, y: float) -> None:
    """Click on a figure's point (x, y), in its own units."""
    figure.wait_for_element_state("stable")
    left, top = figure.evaluate(WHERE, [x, y])
    page.mouse.move(left, top)
    page.wait_for_timeout(300)  # plotly finds what is under the pointer
    page.mouse.click(left, top)


def playhead(page: Any) -> list[tuple[bool, float]]:
    """Of every playhead, whether it is shown, and its time."""
    return page.evaluate(
        """() => [...document.querySelectorAll(".playhead")].map((line) => {
          const axis = line.parentElement._fullLayout.xaxis;
          return [line.style.display === "block",
                  axis.p2d(parseFloat(line.style.left) - axis._offset)];
        })"""
    )


def overflow(page: Any) -> float:
    """How many pixels of the page are wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
