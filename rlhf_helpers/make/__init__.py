"""The authors' commands: `make models`, `make run`, `make stamp`."""
