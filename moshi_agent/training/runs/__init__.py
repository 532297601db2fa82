"""What every training run shares: the loop, trainers, settings, averages, checkpoints, metrics."""
