"""Sentences that calibration texts are composed of: everyday prose, all our own."""

from __future__ import annotations

from typing import Final

PASSAGES: Final[tuple[tuple[str, ...], ...]] = (
    (
        "The ferry left twenty minutes late because the tide had not come in far enough.",
        "Passengers leaned on the rail and watched the harbour lights go out one by one.",
        "A deckhand handed out blankets, apologising to everybody with the same short sentence.",
        "By the time we reached the island the bakery had already sold its last loaf.",
    ),
    (
        "The city council approved a budget that moves money from road widening to bus lanes.",
        "Shop owners on Mill Street fear that deliveries will become harder in the mornings.",
        "A pilot with timed loading bays starts in March and will be reviewed after six months.",
    ),
    (
        "Dice the onions finely and let them soften in butter over a low flame.",
        "Add the rice, stir until every grain is glossy, then pour in the wine.",
        "Ladle in hot stock a little at a time and keep stirring for eighteen minutes.",
        "Take the pan off the heat before folding in the cheese, or it will turn stringy.",
        "Serve at once on warm plates with a crack of black pepper.",
    ),
    (
        "Quarterly revenue rose nine percent, mostly on demand for replacement batteries.",
        "The company kept its forecast unchanged and warned of higher freight costs.",
        "Its shares slipped in early trading before recovering by the close.",
    ),
    (
        "The goalkeeper guessed right twice and still lost the shoot-out.",
        "Her manager praised a defence that had not conceded from open play all season.",
        "Supporters stayed for an hour, singing long after the players had gone in.",
    ),
    (
        "A cold front crosses the coast tonight with gusts up to ninety kilometres an hour.",
        "Fishermen were told to stay in port until Thursday noon.",
        "Snow is expected above eight hundred metres, turning to sleet in the valleys.",
    ),
    (
        "Press and hold the button for five seconds until the light blinks blue.",
        "Open the app, choose your network and type the password printed under the base.",
        "If the light turns red, unplug the device, wait a minute and start again.",
        "Updates install overnight and need no action from you.",
    ),
    (
        "The telescope found water vapour in the air of a planet no larger than Neptune.",
        "Its year lasts nine days, and one side never sees the dark.",
        "Whether clouds form there at all is the question for the next observing run.",
    ),
    (
        "My grandmother kept every letter in a biscuit tin above the stove.",
        "The ink had faded to the brown of weak tea, but her hand was easy to read.",
        "She wrote about prices, weather and people I had never heard of.",
        "Only once did she mention the war, and then only to say that it was over.",
    ),
    (
        "Regular walking lowered blood pressure as much as the first drug the trial compared.",
        "Volunteers who walked after meals gained slightly more than those who walked before.",
        "The authors caution that the study was short and its subjects were healthy.",
    ),
    (
        "The flat has two bedrooms, a narrow kitchen and a balcony facing the courtyard.",
        "Heating and water are included, electricity is metered separately.",
        "Viewings take place on Saturday between ten and noon; please bring identification.",
    ),
    (
        "The second album trades guitars for strings and gains nothing by it.",
        "Two songs near the end remember how to breathe, and they are worth the wait.",
        "On stage, though, even the weaker tracks find their feet.",
    ),
    (
        "Seedlings want light more than warmth, so move them to the brightest sill you have.",
        "Water from below and let the surface dry before you water again.",
        "Harden them off for a week before they go into open ground.",
    ),
    (
        "Our support desk answers within one working day.",
        "Refunds go back to the card you paid with and take up to five days to appear.",
        "Orders that have already left the warehouse can no longer be changed.",
    ),
    (
        "The court ruled that the contract ended when the second invoice went unpaid.",
        "Both sides have thirty days to appeal.",
        "Lawyers expect the decision to be read closely by other suppliers.",
    ),
    (
        "He taught the class to measure the height of a tree with a stick and its shadow.",
        "By the end of the hour they had measured the flagpole, the chapel and each other.",
        "Homework was to find something that could not be measured that way, and say why.",
    ),
)
