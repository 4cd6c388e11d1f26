"""What the chapters teach, the same functions word for word.  They know the engine, and no world and no notebook."""
