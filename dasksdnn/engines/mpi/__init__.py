"""Ranks of an MPI world: messages by mpi4py, and from compiled code by the library itself."""
