"""Cut framed.csv.gz from FRAMED: python extract.py <all_structural_data.csv.gz>."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd

N_ROWS = 1200
SEED = 0

if __name__ == "__main__":
    frames = pd.read_csv(sys.argv[1], dtype=str, index_col=0)  # text, so that every number stays as it was written
    kept = np.sort(np.random.default_rng(SEED).choice(len(frames), N_ROWS, replace=False))
    text = frames.drop(columns="batch").iloc[kept].to_csv(index_label="frame")
    Path(__file__).with_name("framed.csv.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
