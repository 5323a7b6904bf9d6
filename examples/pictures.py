"""Draw a small data set, `<domain>/<class>/<picture>`, to try promptkit on: python examples/pictures.py FOLDER"""

import sys
from pathlib import Path

from promptkit.testing import SHAPES, STYLES, write_pictures

if __name__ == "__main__":
    folder = write_pictures(Path(sys.argv[1]), SHAPES, STYLES, per_class=20, size=64)
    print(f"drew {len(list(folder.rglob('*.png')))} pictures in {folder}")
