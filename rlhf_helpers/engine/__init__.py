"""What carries the lesson: files, models, arithmetic, packed rows, checkpoints.  It knows nothing of what is taught."""
