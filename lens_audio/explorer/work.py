"""Work that takes a while: begun, watched and stopped by buttons."""

import asyncio
from collections.abc import Callable, Iterator

import ipywidgets as widgets

from lens_audio.explorer.parts import Status


class Work(widgets.HBox):
    """A button that begins the work, one that stops it, and how far it is.

    The work is an iterator. Where there is an event loop it runs a step at a time, and clicks and
    cells are handled in between; else to its end.
    """

    def __init__(
        self,
        name: str,
        steps: Callable[[], Iterator[None]],
        status: Status,
        on_stop: Callable[[], None],
    ) -> None:
        self.run = widgets.Button(description=name, icon="play", button_style="primary")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.progress = widgets.IntProgress(layout={"width": "160px"})
        self._steps, self._status, self._on_stop = steps, status, on_stop
        self._task: asyncio.Task | None = None
        super().__init__([self.run, self.stop, self.progress], layout={"flex_flow": "wrap"})
        self.run.on_click(lambda _: status.reporting(self.start)())
        self.stop.on_click(lambda _: self.halt())

    def start(self) -> None:
        """Begin: beside the event loop where there is one, else run to the end."""
        self.halt()
        steps = self._with_buttons()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for _ in steps:
                pass
            return
        self._task = loop.create_task(self._in_turns(steps))

    def halt(self) -> None:
        """Stop what is running."""
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def show(self, done: int, total: int) -> None:
        """How far it is."""
        self.progress.max, self.progress.value = total, done

    async def _in_turns(self, steps: Iterator[None]) -> None:
        try:
            for _ in steps:
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self._on_stop()
        except Exception as error:
            self._status.fail(error)
        finally:
            steps.close()  # type: ignore[attr-defined]

    def _with_buttons(self) -> Iterator[None]:
        self.run.disabled, self.stop.disabled = True, False
        try:
            yield from self._steps()
        finally:
            self.run.disabled, self.stop.disabled = False, True
