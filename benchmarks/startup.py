"""How long the commands that need no torch take to answer, beside importing torch.

    python benchmarks/startup.py [--runs 5]

Each is a process of its own, and the fastest of the runs counts, since the machine may have other work.
"""

import argparse
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "mnistgen --help": ["-m", "mnistgen", "--help"],
    "mnistgen models": ["-m", "mnistgen", "models"],
    "python -c 'import torch'": ["-c", "import torch"],
}
LIMIT = 0.3  # seconds, for what mnistgen answers


def measure(arguments: list[str], runs: int) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes of each kind; the fastest counts")
    runs = parser.parse_args().runs
    seconds = {name: measure(arguments, runs) for name, arguments in COMMANDS.items()}
    torch = seconds["python -c 'import torch'"]
    for name, value in seconds.items():
        print(f"{name:<26}{value:6.3f} s{torch / value:8.1f} x as fast as importing torch")
    return int(any(seconds[name] > LIMIT for name in seconds if name.startswith("mnistgen")))


if __name__ == "__main__":
    sys.exit(main())
