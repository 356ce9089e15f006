"""What the report says of a ranker, read from whatever metrics an evaluation wrote."""

from __future__ import annotations

from reland_features.report.ranking_view import ranking_view


def test_a_control_as_good_as_the_rationales_takes_the_credit_away():
    def verdicts(baseline: float, shuffled: float, constant: float) -> list[str]:
        lows = {("without", "baseline"): baseline, ("shuffled", "control"): shuffled, ("constant", "control"): constant}
        differences = [
            {
                "ranker": "with",
                "against": against,
                "role": role,
                "metric": "ndcg@10",
                "value": v,
                "low": v,
                "high": 0.02,
            }
            for (against, role), v in lows.items()
        ]
        return list(ranking_view({"rankers": [], "differences": differences}).verdicts)

    credit = "The content of the rationales cannot be credited with a gain."
    gain = "The gain comes from the content of the rationales, not from the extra columns."
    means = "Controls have another's rationale, one for all, no text, or one that no LLM wrote; “with” is"
    for lows, says in (
        ((0.004, -0.001, 0.002), f"better than “constant” (+0.0020); not better than “shuffled” (−0.0010). {credit}"),
        ((0.004, 0.002, -0.001), f"better than “shuffled” (+0.0020); not better than “constant” (−0.0010). {credit}"),
        ((0.004, -0.001, -0.001), f"not better than “shuffled” (−0.0010), “constant” (−0.0010). {credit}"),
        ((0.004, 0.001, 0.002), f"better than “shuffled” (+0.0010), “constant” (+0.0020). {gain}"),
        ((-0.004, 0.001, 0.002), "better than “shuffled” (+0.0010), “constant” (+0.0020)."),
    ):
        first, last = verdicts(*lows)
        assert "“without”" in first
        assert last == f"{means} {says}"


def test_each_ranker_is_held_against_its_own_controls():
    rows = [("a", "t", "alternative", -0.1), ("a", "none", "baseline", 0.1), ("a", "c", "control", 0.1)]
    rows += [("b", "t", "baseline", 0.1), ("b", "d", "control", -0.1)]
    differences = [
        {"ranker": ranker, "against": against, "role": role, "metric": "ndcg@10", "value": low, "low": low, "high": 0.2}
        for ranker, against, role, low in rows
    ]
    a_text, a_none, a_controls, b_text, b_controls = ranking_view({"rankers": [], "differences": differences}).verdicts
    assert (a_none.startswith("“a” has a higher"), "“t” cannot be told apart" in a_text) == (True, True)
    assert "“a” is better than “c”" in a_controls
    assert "The gain comes" in a_controls
    assert b_text.startswith("“b” has a higher")
    assert "“b” is not better than “d”" in b_controls


def test_users_who_inherit_have_a_sentence_of_their_own_where_they_were_measured():
    row = {"ranker": "with", "against": "none", "role": "baseline", "metric": "ndcg@10"}
    everyone = {**row, "value": 0.02, "low": 0.01, "high": 0.03}
    inherit = {**row, "level": "inherit", "value": 0.01, "low": -0.01, "high": 0.03}
    quoted, others = ranking_view({"rankers": [], "differences": [everyone, inherit]}).verdicts
    assert quoted.startswith("“with” has a higher NDCG@10 than “none”: +0.0200")
    assert others == (
        "Only users who inherit another user's rationale: The NDCG@10 of “with” and “none” cannot be told apart: "
        "+0.0100 (95 % interval −0.0100 to +0.0300)."
    )
    assert len(ranking_view({"rankers": [], "differences": [everyone]}).verdicts) == 1


def test_intervals_are_found_however_the_metrics_state_them():
    view = ranking_view(
        [
            {"name": "a", "hr@10": 0.5, "hr@10_ci": [0.4, 0.6], "seconds": 3},
            {"name": "b", "hr@10": 0.5, "hr@10_low": 0.4, "hr@10_high": 0.6},
            {"name": "c", "hr@10": 0.5, "ci": {"hr@10": (0.4, 0.6)}},
            {"name": "d", "note": "no interval"},
        ]
    )
    assert view.metrics == ("hr@10", "seconds")
    assert [(cells[0].value, cells[0].low, cells[0].high) for _, cells in view.rows] == [(0.5, 0.4, 0.6)] * 3 + [
        (None, None, None)
    ]
    assert "nothing can be concluded" in view.verdicts[0]
