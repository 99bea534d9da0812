"""Drawn pictures as training samples: nothing to download, and every answer is known to be right."""

from dataclasses import dataclass

from vlmamba.data.dialogues import Dialogue
from vlmamba.data.drawn import Drawing, caption
from vlmamba.data.packing import Packed
from vlmamba.data.samples import Sample
from vlmamba.data.wordings import DESCRIBING
from vlmamba.processing import Processor
from vlmamba.template import Turn


@dataclass(frozen=True)
class DrawnData:
    """`count` pictures of `drawing`, with a caption each (as the first stage learns from) or a dialogue."""

    drawing: Drawing
    count: int
    captions: bool = False

    def dialogue(self, index: int) -> Dialogue:
        if not self.captions:
            return self.drawing.dialogue(index)
        question = DESCRIBING[index % len(DESCRIBING)]
        return [(question, caption(self.drawing.contents(index)))]

    def batches(self, processor: Processor, batch_size: int, max_length: int, seed: int) -> Packed:
        return Packed(DrawnSamples(self, processor), batch_size, max_length, seed)


class DrawnSamples:
    """The samples of a `DrawnData`, drawn anew whenever they are asked for."""

    def __init__(self, data: DrawnData, processor: Processor) -> None:
        self.data, self.processor = data, processor
        encoded = [processor.training_ids(self._turns(k)) for k in range(data.count)]
        self.encoded = encoded
        self.lengths = [len(ids) for ids, _ in encoded]

    def sample(self, k: int) -> Sample:
        ids, labels = self.encoded[k]
        return Sample(f"drawn-{k}", ids, labels, [self.data.drawing.picture(k)])

    def _turns(self, k: int) -> list[Turn]:
        turns = []
        for number, (question, answer) in enumerate(self.data.dialogue(k)):
            turns += [Turn("user", question, int(number == 0)), Turn("assistant", answer)]
        return turns
