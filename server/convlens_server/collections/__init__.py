"""Collections of images as the server sees them: filling, planning, searching and mapping them."""
