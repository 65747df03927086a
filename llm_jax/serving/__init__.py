"""Trained models behind an HTTP interface that clients of OpenAI's speak."""
