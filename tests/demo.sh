#!/bin/sh
# What `make demo` runs: a new user's first minutes, typed out.
set -eu
launch="$(pwd)/.venv/bin/launch"
folder="${DEMO_FOLDER:-demo}"

say() { printf '\n$ %s\n' "$*"; }

if [ ! -f "$folder/launch.toml" ]; then
  say launch demo "$folder"
  "$launch" demo "$folder"
fi
cd "$folder"
say launch dpo --yes
"$launch" dpo --yes --name demo
job=$("$launch" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["jobs"][0]["id"])')
say launch status
"$launch" status
say launch eval "$job"
"$launch" eval "$job"
say launch cost
"$launch" cost
printf '\nResults: %s\nReport:  %s\n' "$(pwd)/runs/$job" "$(pwd)/runs/$job/report.html"
