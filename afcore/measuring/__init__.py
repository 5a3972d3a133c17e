"""What planning predicts from: seconds of this machine, its store and its links."""
