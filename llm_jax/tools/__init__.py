"""What a model can call while it writes: `make(**hyper)` gives a function from text to text.

Several threads may call such a function at once. It raises ValueError for a malformed call, with a
message that the model can read, and OSError if the tool cannot be reached.
"""
