"""Generation: prefill, decode from the state, sampling, stop rules, and the text as it grows."""

from vlmamba.engine.generation import FinishReason, Generation, Step, generate
from vlmamba.engine.reply import Answer, Reply, Timings
from vlmamba.engine.sampling import GREEDY, Sampling
from vlmamba.engine.text import AnswerText

__all__ = [
    "GREEDY",
    "Answer",
    "AnswerText",
    "FinishReason",
    "Generation",
    "Reply",
    "Sampling",
    "Step",
    "Timings",
    "generate",
]
