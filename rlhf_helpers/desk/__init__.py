"""What a chapter has on its desk: workspace, task, labelling widget, chat, plots, exercises, others' machines."""
