"""Every stage of every architecture against transformers, from the same random weights.

A run is a prompt that crosses windows and original contexts, and decode steps behind it. The rotary
table of rope_table.py stands on both sides; test_rope.py measures what transformers' own differs
by.
"""
import families
import pytest
import stages

ALL = pytest.mark.parametrize("case", families.CASES, ids=str)
KINDS = pytest.mark.parametrize("kind", stages.KINDS)


@KINDS
@ALL
def test_stages(subject, case, kind):
    s = subject(case)
    side = s.side(kind)
    assert side.ids[:case.n_prompt] == s.prompt()
    assert len(side.ids) == case.n_prompt + families.N_DECODE
    found = stages.compare(side, s.ordered(s.reference_of(side.ids), kind))
    stages.report(f"{case} {kind}", found)
    first = stages.first_over(found)
    assert first is None, f"first over {stages.LIMIT}: {first}, {found[first]:.2e}"


@KINDS
@ALL
def test_logits_of_all_positions(subject, case, kind):
    s = subject(case)
    ids = s.prompt()
    logits = stages.all_logits(s.greta, s.path(kind), s.scratch / "logits", ids, case.n_ctx)
    found = stages.ratio(logits, s.reference_of(ids)["logits", -1])
    assert found <= stages.LIMIT, found
