"""Generation: prefill, decode from the state, sampling, stop rules, and the text as it grows."""

from vlmamba.engine.generate import FinishReason, Generation, Step, generate
from vlmamba.engine.sampling import GREEDY, Sampling
from vlmamba.engine.text import AnswerText

__all__ = [
    "GREEDY",
    "AnswerText",
    "FinishReason",
    "Generation",
    "Sampling",
    "Step",
    "generate",
]
