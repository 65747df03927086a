"""The one train step, the one loop, and what they need."""
