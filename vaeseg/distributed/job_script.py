"""Run a script of `jobs/` by name, wherever this vaeseg has it: the entry point of jobs.

python -P -m vaeseg.distributed.job_script segment_archive --run-id RUN_ID
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import vaeseg
from vaeseg.errors import EXIT_USAGE


def main(arguments: list[str]) -> None:
    """Become the script; it ends the process."""
    name = arguments[0] if arguments else ""
    script = jobs_directory() / f"{name}.py"
    if not name.isidentifier() or not script.is_file():
        known = ", ".join(sorted(path.stem for path in jobs_directory().glob("*.py")))
        print(f"job_script: no job {name or 'given'}; there are {known}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    sys.argv = [str(script), *arguments[1:]]
    runpy.run_path(str(script), run_name="__main__")


def jobs_directory() -> Path:
    """Where the scripts are: inside an installed package, or beside it in a checkout."""
    package = Path(vaeseg.__file__).parent
    installed = package / "_jobs"
    return installed if installed.is_dir() else package.parent / "jobs"


if __name__ == "__main__":
    main(sys.argv[1:])
