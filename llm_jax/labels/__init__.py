"""What people say of answers: which is better, and how one should read. Imports no JAX.

  candidates.py   answers to one prompt, from a file or a sampler, as an item
  order.py        who sees which side first, what comes again, what is broken on purpose
  event.py        one thing that an annotator did, checked
  log.py          the events in one SQLite file
  tasks.py        who works on what
  votes.py        from events to what each annotator prefers, and what they decide together
  export.py       from events to the rows that training reads
  acts.py         what users did with the answers of a served chat
  said.py         what that says of the answers
  private.py      what is taken out of texts before they leave the log
  feedback.py     from such events to rows

The log is the only thing that is stored. All else is a function of it.
"""
