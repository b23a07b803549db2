"""What customers send in these tests."""

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
