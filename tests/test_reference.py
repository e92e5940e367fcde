"""The reference: current, whole, and of docstrings that say enough."""

import reference


def test_the_reference_is_what_the_docstrings_say():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()


def test_every_public_name_is_described_with_each_of_its_arguments():
    assert [owed for entry in reference.entries() for owed in entry.owed] == []
