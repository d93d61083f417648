"""The brain bundles on one bench, as `medvit bench brain`: writes docs/bench.md and its pictures.

python workflows/bench_brain.py [--atlases FOLDER] [--label-maps FOLDER] [--data MANIFEST] ...
"""

import sys

from medvit.cli.app import app

if __name__ == "__main__":
    app(["bench", "brain", "--output", "docs", "--work", "out/bench", *sys.argv[1:]])
