"""A progress bar that ends at its end."""

from tqdm.auto import tqdm


class ProgressBar(tqdm):
    """tqdm's bar, in a terminal or a notebook, whose last state drawn is the last there was.

    tqdm leaves out what comes soon after it drew: in a log, a bar that is cleared stays at 99 %.
    """

    def close(self) -> None:
        """Draw the last state, if any was drawn, and close."""
        if not self.disable and self.last_print_t >= self.start_t + self.delay:
            self.refresh()
        super().close()
