"""What customers send in these tests, and how they read what comes back."""

from __future__ import annotations

from typing import Any, Final

ARTICLE = (
    "The goalkeeper saved two penalties and the city celebrated its first cup in thirty years. "
    "Supporters filled the square before the final whistle and stayed until long after midnight. "
    "The coach, who almost left the club in winter, said that patience had won more than tactics. "
    "Shops along the main street opened late on Monday so that their staff could sleep. "
    "The team will parade the trophy on an open bus on Saturday afternoon. "
    "Tickets for the supercup in August go on sale next week, and prices stay unchanged."
)
RECIPE = (
    "Dice two onions and soften them in butter over a low flame for ten minutes. "
    "Stir in the rice until every grain is glossy, then add a glass of white wine. "
    "Ladle in hot stock a little at a time and keep stirring. "
    "After eighteen minutes take the pan off the heat and fold in the cheese."
)
SENTENCES = [
    "A ferry left the harbour twenty minutes late.",
    "The telescope found water vapour on a distant planet.",
    "Our support desk answers within one working day.",
    "Seedlings want light more than warmth.",
]

CLASSIFY: Final = {"model": "zlm-v1-iab-classify-edge", "input": ARTICLE}
SUMMARISE: Final = {"model": "zlm-v1-summary-cloud", "input": ARTICLE}
EMBED: Final = {"model": "all-minilm-l6-v2", "input": SENTENCES}


def text_of(body: dict[str, Any]) -> str:
    """Return the text of an answer to ``/v1/responses``."""
    return str(body["output"][0]["content"][0]["text"])
