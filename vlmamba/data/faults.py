"""What can be wrong with a sample: the reasons, under the names by which they are counted."""

FAULTS = {
    "bad-json": "not valid JSON",
    "not-a-sample": "not a sample in LLaVA's format",
    "path-outside": "a picture's path leaves the folder of pictures",
    "image-marks": "the number of <image> marks is not that of the pictures",
    "roles": "roles do not alternate",
    "no-answer": "an answer is missing or empty",
    "too-long": "more tokens than fit",
    "missing": "a picture is missing",
    "empty": "a picture of 0 bytes",
    "truncated": "a picture ends too early",
    "undecodable": "a picture cannot be decoded",
    "bomb": "a picture has too many pixels",
    "duplicate-id": "the id was used before",
}


class BadSampleError(ValueError):
    """A sample that cannot be learnt from: `reason` is one of FAULTS, `detail` what is special to this one."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{FAULTS[reason]}: {detail}" if detail else FAULTS[reason])
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type["BadSampleError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # so that it passes between processes
