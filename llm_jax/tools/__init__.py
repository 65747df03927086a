"""What a model can call while it writes: `make(**hyper)` gives a function from text to text.

The functions may be called from several threads at once. A ValueError says that the call was
malformed, in words for the model; an OSError that the tool could not be reached.
"""
