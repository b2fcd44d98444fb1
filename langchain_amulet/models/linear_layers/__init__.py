"""Linear layers that suit the device: packed for the CPU's matrix kernels, or with quantised weights."""
