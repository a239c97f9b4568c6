"""Tiny tokenizers of translation models: SentencePiece models, trained here, and a vocab.json with other ids."""

import io
import json

ENGLISH = [
    "the cat sleeps on the chair",
    "a dog runs to the house",
    "where is the station please",
    "it's raining in london today",
    "he reads 3 books",
]
FRENCH = [
    "le chat dort sur la chaise",
    "un chien court vers la maison",
    "où est la gare s'il vous plaît",
    "il pleut à londres aujourd'hui",
    "il lit 3 livres",
]


def pieces(texts, kind):
    """A trained model, its bytes and its pieces without the special ones."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 20),
        model_writer=model,
        vocab_size=60,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return model.getvalue(), [processor.id_to_piece(i) for i in range(3, len(processor))]


def write_marian(directory):
    """The files of a Marian tokenizer with one language of the target, and the number of its ids."""
    (source, english), (target, french) = pieces(ENGLISH, "unigram"), pieces(FRENCH, "unigram")
    tokens = dict.fromkeys(["</s>", "<unk>", *french, *english, ">>fra<<", "<pad>"])
    (directory / "source.spm").write_bytes(source)
    (directory / "target.spm").write_bytes(target)
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))
    return len(tokens)


def write_m2m_100(directory):
    """The files of an M2M-100 tokenizer, whose languages are not among the tokens of vocab.json."""
    model, own = pieces([*ENGLISH, *FRENCH], "bpe")
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *reversed(own)]
    (directory / "sentencepiece.bpe.model").write_bytes(model)
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "M2M100Tokenizer"}))
    return len(tokens)
