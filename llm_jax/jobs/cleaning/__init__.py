"""What job `clean` consists of: reading pages, passes over them, the corpus and its report."""
