"""What recipes share: flags, the run's folder, and the stages from prompts to a saved student."""
