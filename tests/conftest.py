"""What holds for every test: one thread, and no MLflow server or telemetry of the one who runs them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", GIT_PYTHON_REFRESH="quiet")

import torch

torch.set_num_threads(1)
