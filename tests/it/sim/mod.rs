//! Sweeps of the primitives under every fault, and tests of the simulator itself.

