"""What rewards/sandbox.py runs in a subprocess. It needs nothing but Python's library."""
