"""`python -m mnistgen`."""

import os
import sys

from mnistgen.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # One of several processes (torchrun). Everything is on disk by now, and an orderly exit is a gamble: the
        # threads of gloo may outlive the objects they belong to, and C++ then aborts the process now and then.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
