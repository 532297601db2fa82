"""What every training run needs: settings, optimizer steps, averages, checkpoints, metrics."""
