"""`--set key=value`: a recipe with single settings changed, by dotted names; an unknown name is an error.

Names follow the recipe: `seed`, `model.connector.kind`, `align.lr`, `finetune.data.file`. The name of a stage's or a
data set's setting alone, `steps` or `packs`, sets it wherever it stands outside the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vlmamba.recipes import Recipe, Stage
from vlmamba.train.stages import StageConfig

_PARTS = ("model", "image", "parts", "template", "seed")


def apply(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with every `key=value` of `settings` applied in order.

    Raises ValueError for a setting without `=`, an unknown key (naming the nearest), or a value that does not fit.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write it as key=value")
        known = dict(flat(recipe))
        shared = [name for name in known if not name.startswith(("model.", "image.", "template."))]
        names = [key] if key in known else [name for name in shared if name.endswith(f".{key}")]
        if not names:
            near = get_close_matches(key, [*known, *(name.split(".")[-1] for name in shared)], 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise ValueError(f"--set {setting}: there is no setting {key!r}{hint}")
        for name in names:
            recipe = _set(recipe, name, text)
    return recipe


def flat(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every setting of a recipe by its dotted name."""
    for part in _PARTS:
        yield from _leaves(part, getattr(recipe, part))
    for stage in recipe.stages:
        yield from _leaves(stage.config.name, stage.config, skip="name")
        yield from _leaves(f"{stage.config.name}.data", stage.data)


def _leaves(name: str, value: Any, skip: str = "") -> Iterator[tuple[str, Any]]:
    if not is_dataclass(value):
        yield name, value
        return
    for field in fields(value):
        if field.name != skip and field.repr:
            yield from _leaves(f"{name}.{field.name}", getattr(value, field.name))


def _set(recipe: Recipe, key: str, text: str) -> Recipe:
    head, *path = key.split(".")
    if head in _PARTS:
        return _replaced(recipe, [head, *path], key, text)
    return replace(
        recipe,
        stages=tuple(
            _set_in_stage(stage, path, key, text) if stage.config.name == head else stage
            for stage in recipe.stages
        ),
    )


def _set_in_stage(stage: Stage, path: list[str], key: str, text: str) -> Stage:
    if path[0] == "data":
        return replace(stage, data=_replaced(stage.data, path[1:], key, text))
    return replace(stage, config=_replaced(stage.config, path, key, text))


def _replaced(node: Any, path: list[str], key: str, text: str) -> Any:
    name, *rest = path
    if rest:
        return replace(node, **{name: _replaced(getattr(node, name), rest, key, text)})
    changes = {name: parse(text, get_type_hints(type(node))[name], key)}
    if isinstance(node, StageConfig) and name in ("steps", "epochs"):
        changes["epochs" if name == "steps" else "steps"] = None  # one replaces the other
    return replace(node, **changes)


def parse(text: str, hint: Any, key: str) -> Any:
    """`text` as a value of type `hint`; raises ValueError that names the key."""
    choices = get_args(hint)
    if NoneType in choices:
        if text.lower() == "none":
            return None
        hint = next(choice for choice in choices if choice is not NoneType)
        return parse(text, hint, key)
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        if get_origin(hint) is tuple:
            element = choices[0]
            return tuple(parse(part.strip(), element, key) for part in text.split(","))
        if get_origin(hint) is Literal or hint is str:
            return text
        return hint(text)
    except (ValueError, KeyError):
        kind = getattr(hint, "__name__", str(hint))
        raise ValueError(f"--set {key}={text}: expected a value of type {kind}") from None
