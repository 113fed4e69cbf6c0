#!/bin/sh
# Builds the wheel: build-wheel.sh SOURCE OUT. The Python that builds is the first on the path; it gets hatchling.
set -eu

source=$1
out=$2

python3 -m pip install -q -c "$source/constraints.txt" hatchling
python3 -m pip wheel -q --no-deps --no-build-isolation --wheel-dir "$out" "$source"
