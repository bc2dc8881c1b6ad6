"""Writes a text of SIZE bytes: made-up words, as frequent as Zipf found those of languages. Always the same text."""

import itertools
import random
import sys

size = int(sys.argv[1])
chance = random.Random(1935)  # the year of Zipf's book
syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")]
words = ["".join(pair) for pair in itertools.product(syllables, repeat=2)]  # 10,000
chance.shuffle(words)
# the second is half as frequent as the first, the third a third …
weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))

while size > 0:
    line = " ".join(chance.choices(words, cum_weights=weights, k=12))[: size - 1] + "\n"
    sys.stdout.write(line)
    size -= len(line)
