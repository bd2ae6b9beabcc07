"""LightGBM model file -> shared library, by tl2cgen: `python generate.py MODEL.txt FOLDER` prints the library's path.

The library exports `predict(union Entry* data, int pred_margin, double* result)`, one row a call.
"""

import pathlib
import subprocess
import sys

import tl2cgen
import treelite

model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
forest = treelite.frontend.load_lightgbm_model(model)
tl2cgen.generate_c_code(forest, dirpath=str(folder / "c"), params={"parallel_comp": 16})
library = folder / "predictor.so"
objects = []
for source in sorted((folder / "c").glob("*.c")):
    objects.append(source.with_suffix(".o"))
    subprocess.run(["cc", "-O3", "-march=native", "-fPIC", "-c", source, "-o", objects[-1]], check=True)
subprocess.run(["cc", "-shared", *objects, "-lm", "-o", library], check=True)
print(library)
