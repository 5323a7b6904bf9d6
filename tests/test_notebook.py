"""`examples/notebook.ipynb` runs from top to bottom."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples/notebook.ipynb"


def test_the_notebook_runs_and_shows_progress_frames_and_figures(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "its outputs are not committed"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert sum("image/png" in data for data in shown) == 2
    assert sum("dataframe" in data.get("text/html", "") for data in shown) == 2
    assert sum("application/vnd.jupyter.widget-view+json" in data for data in shown) >= 2, "bars under way"
    said = "".join(data.get("text/plain", "") for data in shown)
    assert said.count("epoch") == 2
