#!/usr/bin/env bash
# Makes both locks anew from pyproject.toml: run.txt (what a user runs), dev.txt (run plus the checks). Needs uv.
set -eu
cd "$(dirname "$0")/.."
flags=(--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate)
uv pip compile "${flags[@]}" --extra embedded --extra fetch --extra dev pyproject.toml -o requirements/dev.txt
uv pip compile "${flags[@]}" --extra embedded --extra fetch --extra build pyproject.toml -c requirements/dev.txt -o requirements/run.txt
