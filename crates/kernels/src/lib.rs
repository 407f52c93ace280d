//! Native kernels for the CPU, called by compiled programs through XLA's foreign function interface.
