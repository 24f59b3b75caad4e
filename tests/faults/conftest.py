"""The long proofs: `make test-faults`, or `make test-faults PART=corruption`."""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parent))  # for faults.py
