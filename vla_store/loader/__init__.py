"""How samples are served: order, processes, shared memory. Imports no torch."""
