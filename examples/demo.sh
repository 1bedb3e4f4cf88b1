#!/bin/sh
# The main job on real documents: fetch the models, ingest a handbook, ask three questions.
# State goes to .ragstone below the working directory (RAGSTONE_HOME to change it).
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

say ragstone models fetch
ragstone models fetch

say ragstone ingest examples/handbook
code=0
ragstone ingest examples/handbook || code=$?
# 5 is "done in part": pages without any text are in quarantine, each with its reason.
[ "$code" -eq 0 ] || [ "$code" -eq 5 ] || exit "$code"

while IFS= read -r question; do
  [ -n "$question" ] || continue
  say "ragstone ask --why \"$question\""
  ragstone ask --why "$question"
done < examples/questions.txt

cat <<'TEXT'

Next:
  . .venv/bin/activate
  ragstone ask "your own question"          an answer with its citations and reasons
  ragstone search "leave request" --limit 3 the passages, each with why it was chosen
  ragstone documents quarantine             what could not be read, and what to do about it
  ragstone up                               the same as an API and a page to ask from
  ragstone ingest YOUR_FOLDER --corpus mine, then ask with --corpus mine
TEXT
