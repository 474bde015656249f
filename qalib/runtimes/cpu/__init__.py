"""The block-sparse CPU runtime: layers that multiply the kept blocks only, by a compiled operator (`kernel/`)."""
