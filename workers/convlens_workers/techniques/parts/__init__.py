"""What techniques that change an image share: one loop, and small parts to put into it."""
