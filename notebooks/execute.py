"""Run notebooks from top to bottom and save them with their outputs.

    python notebooks/execute.py          # all of them
    python notebooks/execute.py 03 05    # those whose names begin so

Figures are saved twice: as plotly's JSON, live in Jupyter, and as PNG for pages that run no script.
The PNG is kaleido's (`pip install kaleido`), which needs Chrome or Chromium.
"""

import base64
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
PLOTLY = "application/vnd.plotly.v1+json"
PNG_WIDTH, PNG_SCALE = 900, 1.25  # pixels, and how many of the picture's for one of these


def executed(path: Path, folder: str | Path) -> Any:
    """The notebook, run in a fresh kernel that works in `folder`; figures are plotly's JSON.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell does.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    # This tree is imported, one thread makes the numbers come out alike.
    paths = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": paths, "PLOTLY_RENDERER": "plotly_mimetype", "OMP_NUM_THREADS": "1"}
    return client.execute(env=os.environ | own)


def bare(notebook: Any) -> Any:
    """Without what differs from one machine or run to the next."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """What was printed in several pieces, as chance had it, in one."""
    kept: list[Any] = []
    for output in outputs:
        if "metadata" in output:
            output.metadata = {}
        before = kept[-1] if kept else output
        if output is not before and output.get("name", "") == before.get("name") != "":
            before.text += output.text
        else:
            kept.append(output)
    return kept


def with_pictures(notebook: Any) -> Any:
    """With a PNG beside every figure."""
    import plotly.io

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data:
                figure = {"data": data[PLOTLY]["data"], "layout": data[PLOTLY]["layout"]}
                png = plotly.io.to_image(figure, "png", width=PNG_WIDTH, scale=PNG_SCALE)
                data["image/png"] = base64.b64encode(png).decode()
    return notebook


def main() -> None:
    begins = tuple(sys.argv[1:]) or ("",)
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(begins)]
    if not paths:
        sys.exit(f"no notebook begins with {' or '.join(begins)}")
    for path in paths:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, folder)
        seconds = time.perf_counter() - start
        nbformat.write(with_pictures(bare(notebook)), path)
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
