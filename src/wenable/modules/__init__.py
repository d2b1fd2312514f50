"""What holds for any torch network: passes and copies, its batches, targets and outputs, processes."""
