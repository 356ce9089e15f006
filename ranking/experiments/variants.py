"""What each variant of a backbone reads, and what its figures are compared with.

A gain over the base says little alone: more weights, or the mere presence of a text, may give it as well.
So every variant with rationales names its controls, the same model with the rationales dealt out to other
users (*shuffled*) or the same one for everybody (*constant*). Where a seed's rationale is inherited there is a
third, which decides no verdict: the same match with the texts dealt out among the seeds (*permuted*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ranking.backbones import FLOORS
from ranking.fusion import Kind
from reland_features.errors import ConfigError

Texts = Literal["none", "matched", "dated", "top3", "own", "history", "so far", "earlier"]
Control = Literal["", "shuffled", "constant", "permuted"]
Output = Literal["none", "cross", "kar", "slim"]
Fusion = Kind | Literal["none"]
_INHERITED: tuple[Texts, ...] = ("matched", "top3")
_CALLED: dict[Control, str] = {"permuted": "texts permuted"}


@dataclass(frozen=True)
class Variant:
    """One way for features to come in.

    Parameters
    ----------
    label : str
        In tables.
    item_text : bool
        Whether items carry f_item.
    texts : str
        Which rationale each user has: that of the most similar seed (Eq. 3), the same as it would have been
        matched after each event (`ranking.point_in_time`), those of three seeds, or only seed users have one,
        their own. Three are not an LLM's and show what a vector per user is worth at all. "history" is the mean of
        the item texts of the user's training part, its targets included, as in a published match; "so far" that of
        the items before each target, as "dated" is the match of then. "earlier" leaves out what a cut user is trained
        on: it knows the taste of before and no target.
    control : str
        What was done to the texts.
    fusion : str
        How the FusionLayer of Eq. (4) combines it with the user's vector: by attention as in Eq. (5), "concat" or
        "gate"; "none" leaves the user's vector alone.
    dropout : float
        Of the projected rationale in the FusionLayer.
    output : str
        What reads it just before the dot product.
    base : str, optional
        The variant without rationales that it is compared with.
    controls : tuple of str
        The variants that a gain must also beat.
    permuted : str, optional
        The variant with the same matches and the texts dealt out among the seeds.
    """

    label: str
    item_text: bool = False
    texts: Texts = "none"
    control: Control = ""
    fusion: Fusion = "none"
    dropout: float = 0.0
    output: Output = "none"
    base: str | None = None
    controls: tuple[str, ...] = ()
    permuted: str | None = None

    @property
    def reads_rationales(self) -> bool:
        """Whether rationales come in at all."""
        return self.texts != "none"

    @property
    def reads_pool(self) -> bool:
        """Whether it matters which pool the rationales come from."""
        return self.texts not in ("none", "history", "so far", "earlier")

    @property
    def by_event(self) -> bool:
        """Whether there is a text for every interaction, and not one for every user."""
        return self.texts in ("dated", "so far")


def _with_controls(
    name: str,
    label: str,
    *,
    base: str = "f_item",
    texts: Texts = "matched",
    item_text: bool = True,
    fusion: Fusion = "attention",
    dropout: float = 0.0,
    output: Output = "none",
    prefix: str | None = None,
) -> dict[str, Variant]:
    prefix = prefix or name
    kinds: tuple[Control, ...] = ("shuffled", "constant", *(("permuted",) if texts in _INHERITED else ()))
    named = {kind: f"{prefix}_{kind}" for kind in kinds}
    controls, permuted = (named["shuffled"], named["constant"]), named.get("permuted")
    return {
        name: Variant(label, item_text, texts, "", fusion, dropout, output, base, controls, permuted),
        **{
            control: Variant(
                f"{label}, {_CALLED.get(kind, kind)}", item_text, texts, kind, fusion, dropout, output, base
            )
            for kind, control in named.items()
        },
    }


VARIANTS: dict[str, Variant] = {
    "id": Variant("ID-only"),
    "f_item": Variant("+ f_item", item_text=True, base="id"),
    **_with_controls("reland", "+ ReLand"),
    **_with_controls("reland_dropout", "+ ReLand, dropout .5", dropout=0.5, prefix="dropout"),
    **_with_controls("reland_gate", "+ ReLand, gate", fusion="gate", prefix="gate"),
    **_with_controls("reland_concat", "+ ReLand, concat", fusion="concat", prefix="concat"),
    **_with_controls("reland_dated", "+ ReLand, point in time", texts="dated", prefix="dated"),
    **_with_controls(
        "reland_dated_dropout",
        "+ ReLand, point in time, dropout .5",
        texts="dated",
        dropout=0.5,
        prefix="dated_dropout",
    ),
    **_with_controls("reland_without_items", "ReLand w/o f_item", base="id", item_text=False, prefix="without_items"),
    **_with_controls("reland_cross", "+ ReLand + cross", output="cross", prefix="cross"),
    **_with_controls("reland_top3", "+ ReLand, 3 seeds", texts="top3", prefix="top3"),
    **_with_controls("own", "+ own text", texts="own"),
    **_with_controls("mean_text", "+ mean text of the history, no LLM", texts="history"),
    **_with_controls("mean_text_dated", "+ mean text of the history so far, no LLM", texts="so far"),
    **_with_controls("earlier_text", "+ mean text of what came before, no LLM", texts="earlier"),
    **_with_controls(
        "earlier_text_cross", "+ mean text of what came before + cross, no LLM", texts="earlier", output="cross"
    ),
    # Beside the same item features as ReLand, at the input of a sequence too: what differs is how rationales come in.
    **_with_controls("kar", "+ KAR", fusion="none", output="kar"),
    **_with_controls("slim", "+ SLIM-style", fusion="none", output="slim"),
}


def variant(name: str) -> Variant:
    """Return a variant by name; raise `ConfigError` for an unknown one."""
    if name not in VARIANTS:
        raise ConfigError("no such variant", where="--variants", got=name, expected=", ".join(VARIANTS))
    return VARIANTS[name]


def main_of(name: str) -> str:
    """Return the variant that a control belongs to; any other variant is its own."""
    return next((main for main, chosen in VARIANTS.items() if name in (*chosen.controls, chosen.permuted)), name)


def with_controls(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the variants with the base and the controls of each, without repetition: base, variant, controls."""
    found: list[str] = []
    for name in names:
        chosen = variant(name)
        found += [each for each in ((chosen.base,) if chosen.base else ()) + (name, *chosen.controls)]
    return tuple(dict.fromkeys(found))


def variants_of(backbone: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return which of the variants a backbone is run with.

    Popularity and item-kNN have nothing to learn, so nothing to fuse: every variant would be the plain one.
    """
    return ("id",) if backbone in FLOORS else tuple(names)
