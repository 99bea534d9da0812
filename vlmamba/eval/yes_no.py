"""VLMEvalKit's reading of a yes/no reply (`YOrN_Extraction`), which it uses for POPE and MME."""

from vlmamba.eval.vqa_accuracy import strip_punctuation_vlmevalkit


def find_yes_or_no(text: str) -> str:
    """`Yes` or `No` where exactly one of the two words occurs once punctuation is gone, else `Unknown`."""
    words = strip_punctuation_vlmevalkit(text.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"
