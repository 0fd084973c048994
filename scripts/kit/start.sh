#!/bin/sh
# Starts the check with the Node of this archive, or where that does not run with the machine's own.
cd "$(dirname "$0")" || exit 1
if ./bin/node --version >/dev/null 2>&1; then exec ./bin/node scripts/gpu-check "$@"; fi
if command -v node >/dev/null 2>&1; then exec node scripts/gpu-check "$@"; fi
echo "gpu-check: the Node in this archive does not run here ($(./bin/node --version 2>&1 | head -n 1)), and there is no other on PATH" >&2
exit 1
