"""Several processes for one gate: a supervisor with the control plane, and workers that serve
clients."""
