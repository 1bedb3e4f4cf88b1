# ruff: noqa: INP001 - a script beside its data, no package
"""Write `queries.jsonl` and `qrels.tsv` of a golden set from its `questions.jsonl`.

python evals/build.py          writes both files
python evals/build.py --check  writes nothing; exit 1 if a file is not what it would write
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

GOLDEN_SET = Path(__file__).parent / "handbook"
Question = dict[str, Any]


def read_questions(folder: Path) -> list[Question]:
    """Return the questions of the golden set in `folder`, in file order."""
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def queries(questions: list[Question]) -> str:
    """Return every question, the unanswerable ones too, as BEIR queries."""
    rows = ({"_id": q["_id"], "text": q["text"]} for q in questions)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def qrels(questions: list[Question]) -> str:
    """Return one judgement a question and document that answers it, wholly or in part, as BEIR qrels."""
    rows = ["query-id\tcorpus-id\tscore\n"]
    for question in questions:
        spans = question["spans"] + question.get("also", [])
        rows += [f"{question['_id']}\t{document}\t1\n" for document in dict.fromkeys(s["document"] for s in spans)]
    return "".join(rows)


def built(folder: Path) -> dict[Path, str]:
    """Return what each generated file in `folder` should hold."""
    questions = read_questions(folder)
    return {folder / "queries.jsonl": queries(questions), folder / "qrels.tsv": qrels(questions)}


def stale(folder: Path) -> list[Path]:
    """Return the generated files in `folder` that are missing or differ from their source."""
    files = built(folder)
    return [path for path, text in files.items() if not path.exists() or path.read_bytes() != text.encode()]


def main() -> int:
    """Build the files, or with `--check` say which ones are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file is out of date")
    if parser.parse_args().check:
        old = stale(GOLDEN_SET)
        for path in old:
            print(f"{path} is out of date: run python evals/build.py", file=sys.stderr)
        return 1 if old else 0
    for path, text in built(GOLDEN_SET).items():
        path.write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
