"""`--set key=value`: what it changes, and what it says of a key it does not know."""

import pytest

from vlmamba.recipes import tiny, vl_mamba_2_8b
from vlmamba.train.overrides import apply, flat


def stage(recipe, name):
    return next(entry for entry in recipe.stages if entry.config.name == name)


def test_a_dotted_name_changes_one_setting_and_no_other():
    before, after = dict(flat(tiny())), dict(flat(apply(tiny(), ["align.lr=0.5"])))
    assert {key for key in before if before[key] != after[key]} == {"align.lr"}
    assert after["align.lr"] == 0.5


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("model.connector.kind=mlp", "model.connector.kind", "mlp"),
        ("model.text.n_layer=3", "model.text.n_layer", 3),
        ("model.text.tie_embeddings=false", "model.text.tie_embeddings", False),
        ("model.connector.dt_rank=none", "model.connector.dt_rank", None),
        ("finetune.betas=0.9,0.95", "finetune.betas", (0.9, 0.95)),
        ("seed=7", "seed", 7),
        ("finetune.data.count=12", "finetune.data.count", 12),
        ("finetune.data.drawing.shapes=star, ring", "finetune.data.drawing.shapes", ("star", "ring")),
        ("finetune.precision=bf16", "finetune.precision", "bf16"),
    ],
)  # fmt: skip
def test_values_are_read_as_their_type(setting, key, value):
    assert dict(flat(apply(tiny(), [setting])))[key] == value


def test_a_stages_setting_alone_is_set_in_every_stage():
    after = dict(flat(apply(tiny(), ["steps=3"])))
    assert [after[f"{name}.steps"] for name in ("pretrain", "align", "finetune")] == [3, 3, 3]


def test_steps_replace_epochs_and_the_other_way_round():
    shorter = stage(apply(vl_mamba_2_8b(), ["align.steps=10"]), "align").config
    assert (shorter.steps, shorter.epochs) == (10, None)
    again = stage(apply(vl_mamba_2_8b(), ["align.steps=10", "align.epochs=2"]), "align").config
    assert (again.steps, again.epochs) == (None, 2.0)


def test_the_data_of_a_stage_can_be_named():
    recipe = apply(vl_mamba_2_8b(), ["finetune.data.file=a=b.json", "finetune.data.packed=false"])
    data = stage(recipe, "finetune").data
    assert (data.file, data.packed) == ("a=b.json", False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("align.lrr=1", r"no setting 'align\.lrr': did you mean align\.lr\?"),
        ("model.conector.kind=mlp", r"did you mean model\.connector\.kind\?"),
        ("stepz=1", r"did you mean steps\?"),
        ("align.lr", "write it as key=value"),
        ("align.steps=many", r"--set align\.steps=many: expected a value of type int"),
        ("model.text.tie_embeddings=maybe", "expected a value of type bool"),
        ("model.connector.kind=cnn", "connector kind 'cnn' is unknown"),
        ("align.lr=-1", "lr must be positive"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_hint(setting, message):
    with pytest.raises(ValueError, match=message):
        apply(tiny(), [setting])
