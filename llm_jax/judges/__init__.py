"""Which of two answers is better: `make(**hyper)` gives a function from pairs to verdicts.

    def make(*, most: Count = 100):
      def judge(pairs):
        for pair in pairs:
          yield 1.0 if len(pair.first) <= most < len(pair.second) else 0.5
      return judge

A judge is given many pairs (`Pair` of judges/pair.py) and says of each, in their order, what its
first answer gets: 1 won, 0.5 tie, 0 lost, None for what it cannot judge; or a `Verdict`, which has
words too. Where it is a generator, each verdict is kept as soon as it is there. A pair on which it
raises is counted and left out; a BadInput ends the job.

A file may also define

    ORDERED = False           the places of the answers mean nothing to it, so it is asked once
    check(**options)          raises BadInput for what cannot work, before anything is sampled
    depends(**options)        JSON of all that its verdicts depend on, under which they are kept; by
                              default its options and the text of its file

Both are called with all options, given or default.
"""
