"""Several processes for one sweep: who takes part, how they meet, and what they tell each other.

Numbers never travel: a process computes on its own devices, and results meet in the workdir. What
is told is small: who is there, what is missing, who was stopped, who died. This goes over one TCP
connection from every process to process 0. jax finds the processes of SLURM and Open MPI; its
coordination service is not used, for its client ends a process by a C++ abort, which nothing can
catch, as soon as process 0 is gone.
"""
