"""Writes sentence_golden.json: the vectors that sentence-transformers computes for the small directories.

python -m tests.models.huggingface.write_sentence_golden
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.models.huggingface.sentence_directories import CASES, TEXTS, write_directory

FILE = Path(__file__).with_name("sentence_golden.json")


def excerpt(vectors: np.ndarray) -> list[list[float]]:
    """Four numbers of each vector, spread over it."""
    return [row[np.linspace(0, len(row) - 1, 4).astype(int)].tolist() for row in np.asarray(vectors, np.float64)]


def main() -> None:
    import sentence_transformers

    golden = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            model = sentence_transformers.SentenceTransformer(
                str(write_directory(Path(directory), case)), device="cpu", local_files_only=True
            )
            golden[name] = [[round(number, 7) for number in row] for row in excerpt(model.encode(TEXTS))]
    content = {"sentence_transformers": sentence_transformers.__version__, "golden": golden}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
