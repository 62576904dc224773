"""What firmware and boot loader would do: kernels into memory, tables, processor state."""
