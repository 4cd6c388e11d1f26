"""What the core chapters draw, a module each; what they compute stands in the notebooks."""
