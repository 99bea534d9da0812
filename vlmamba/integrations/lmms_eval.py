"""A model for lmms-eval: `python -m lmms_eval --model vlmamba --model_args pretrained=DIR_OR_HUB_ID --tasks pope`.

Found through the entry point group `lmms_eval.models`; imported by lmms-eval alone.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NoReturn

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

from vlmamba.engine import Sampling
from vlmamba.vlm import load

manifest = ModelManifest("vlmamba", simple_class_path=f"{__name__}.VLMamba")


class VLMamba(lmms):
    """Answers lmms-eval's requests; arguments as of `vlmamba.load`."""

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        dtype: str | None = None,
    ) -> None:
        super().__init__()
        self.vlm = load(pretrained, device, dtype)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Iterable[Any]) -> list[str]:
        """The answers to requests whose args are (context, gen_kwargs, doc_to_visual, doc_id, task, split)."""
        requests = list(requests)
        answers: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            batch = [request.args for request in requests[start : start + self.batch_size]]
            for settings, same in groupby(batch, key=lambda args: args[1]):
                pairs = [
                    (doc_to_visual(self.task_dict[task][split][doc_id]) or [], context)
                    for context, _, doc_to_visual, doc_id, task, split in same
                ]
                answers += self.vlm.ask_many(pairs, as_sampling(settings), self.batch_size)
        return answers

    def loglikelihood(self, requests: Iterable[Any]) -> NoReturn:
        raise NotImplementedError("vlmamba writes answers; it does not score given ones")

    def generate_until_multi_round(self, requests: Iterable[Any]) -> NoReturn:
        raise NotImplementedError("vlmamba answers one round in lmms-eval")


def as_sampling(settings: Mapping[str, Any]) -> Sampling:
    """lmms-eval's generation settings; greedy unless they ask for sampling with a temperature."""
    until = settings.get("until") or ()
    until = (until,) if isinstance(until, str) else until
    temperature = settings.get("temperature") or 0.0
    return Sampling(
        max_new_tokens=settings.get("max_new_tokens", Sampling.max_new_tokens),
        temperature=temperature if settings.get("do_sample", temperature > 0) else 0.0,
        top_p=settings.get("top_p") or 1.0,
        stop=tuple(text for text in until if text),
    )
