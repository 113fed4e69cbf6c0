#!/bin/sh
# Installs vaeseg into a virtual environment: install.sh DIRECTORY WHEEL CONSTRAINTS cpu|gpu|any
#
#   TORCH        torch and its exact version; on most indexes a looser one brings gigabytes of CUDA libraries along
#   TORCH_INDEX  index to take it from, where the usual one does not have the build that is wanted
#
# The images, `ray up` and the tests run this script, so that each installs the same. Ends with an error where torch is
# not the build that was asked for: a GPU node without CUDA would work through its nights on the CPU and say nothing.
set -eu

directory=$1
wheel=$2
constraints=$3
build=$4
torch=${TORCH:-torch==2.13.0}

test -x "$directory/bin/python" || python3 -m venv "$directory"
python=$directory/bin/python

"$python" -m pip install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
"$python" -m pip install -q -c "$constraints" "${wheel}[postgres]"

"$python" -P - "$build" <<'CHECK'
import sys

import torch

found = "cpu" if torch.version.cuda is None else "gpu"
if sys.argv[1] not in (found, "any"):
    sys.exit(f"install.sh: torch {torch.__version__} is a build for {found}, not for {sys.argv[1]}: set TORCH or TORCH_INDEX")
CHECK
"$directory/bin/vaeseg-batch" --version
"$directory/bin/ray" --version
