#!/usr/bin/env bash
# Everything that must hold before a change lands. Run by `make test`; BIN is the folder of the tools.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg
ANDROMEDA_HOME=$(mktemp -d)
export ANDROMEDA_HOME
trap 'rm -rf "$ANDROMEDA_HOME"' EXIT
say() { printf '\n== %s\n' "$*"; }
state() { git status --porcelain -- "$@" | sort; git ls-files -co --exclude-standard -z -- "$@" | sort -z | xargs -0 cat | sha256sum; }   # what the tools below must not change

say "the package is what the pages export, and the pages are clean"
before=$(state andromeda nbs)
"$BIN"/nbdev_export
"$BIN"/nbdev_clean
if [ "$before" != "$(state andromeda nbs)" ]; then
    git --no-pager diff --stat -- andromeda nbs
    echo "nbdev_export or nbdev_clean changed files: commit what they wrote."
    exit 1
fi

say "README.md is what nbs/index.ipynb says"
"$BIN"/python tests/readme.py --check

say "every page runs from top to bottom"
"$BIN"/nbdev_test --n_workers 2 --do_print

say "real questions to test with"
"$BIN"/python tests/olmo.py

say "the tests"
"$BIN"/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not gpu' tests "$@"
