"""What the IAB head is made of: the taxonomies' facts and texts of our own.

    content_1_0.tsv      code, parent, name; id of the class of content 2 it maps to, if any
    content_2_2.tsv      id, parent, name; code of the class of 1.0 it stands for; our description
    audience_1_1.tsv     id, parent, name of the interests; id of the class of content 2.2 with the
                         same meaning, or our description
    seeds.tsv            lines as such pages have them, by class of content 2.2 (either tier)
    paragraphs.tsv       longer texts: tier 1, acceptable tiers 2 and intents, best first
    intents.tsv          id, category, name, description
    intent_seeds.tsv     lines, by intent
    calibration.tsv      texts the head is not fitted on: as paragraphs; no tier 1 means that a
                         text serves for the intent only, and neither that it is about nothing

Ids, parents and names are facts of the IAB Tech Lab taxonomies (CC BY 3.0, see NOTICE), spelt as
published, since buyers' systems match on them. Left out: brand safety rows and descriptors of 2.2,
all below tier 2, and the audience nodes for medical services and pharmaceuticals.

The code in content_2_2.tsv inverts the published mapping, which goes from 1.0 to 2: where several
classes of 1.0 map to one, the one that covers the others stands for it, else their parent; a class
that none maps to has its parent's.
"""
