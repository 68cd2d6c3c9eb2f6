"""What mkdocs does beside Markdown: formulas become MathML, pages from the root join the site."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
# As pymdownx.arithmatex marks them.
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</\1>',
    re.DOTALL,
)


def on_files(files: Files, config: Any) -> Files:
    """Pages that live at the repository's root."""
    for name in ROOT_PAGES:
        source = Path(config.config_file_path).parent / name
        files.append(File.generated(config, name.lower(), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the root's pages into docs, which in the site lie beside them."""
    is_of_root = page.file.src_uri in [name.lower() for name in ROOT_PAGES]
    return markdown.replace("](docs/", "](") if is_of_root else markdown


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def mathml(match: re.Match) -> str:
        display = "block" if match["inline"] is None else "inline"
        formula = html.unescape(match["block"] if display == "block" else match["inline"]).strip()
        drawn = convert(formula, display=display)
        if "\\" in drawn:
            raise PluginError(f"{page.file.src_uri}: a command of {formula!r} is unknown")
        return drawn

    return FORMULA.sub(mathml, content)
