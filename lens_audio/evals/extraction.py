"""The answer in what a model said."""

import re

CLOSING = "</answer>"


def extract(text: str) -> str:
    """What stands in the last `<answer>…</answer>` (it may lack either end)."""
    opened = re.split(r"<answer>", text, flags=re.IGNORECASE)
    return re.split(r"</answer>", opened[-1], flags=re.IGNORECASE)[0].strip()


def is_closed(text: str) -> bool:
    """Whether the answer is complete, so that nothing need be generated after it."""
    return CLOSING in text.lower()
