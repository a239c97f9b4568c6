"""How well written texts agree with accepted ones: answers, translations, replies."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from fewshot_jax.data.examples import names

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

# One accepted text, or several, for each prediction.
References = Sequence[str] | Sequence[Sequence[str]]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower the case, drop ASCII punctuation and English articles, and single the spaces.

    This is SQuAD's rule as it stands: other languages keep their articles and their own
    punctuation (Spanish opening marks, the Hindi danda).

    References:
        Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016;
        the evaluation script of v2.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers after `normalize_answer`, else 0.

    Where there are no answers (an unanswerable question), the empty prediction is right.
    """
    return _best(lambda predicted, accepted: float(predicted == accepted), prediction, answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words after `normalize_answer`, 0 to 1.

    The largest over the answers counts. Where there are no answers, or either side has no
    words, both must be empty.
    """
    return _best(_word_f1, prediction, answers)


def _best(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    """The largest score over the answers that have words; over the empty answer where none has."""
    predicted = normalize_answer(prediction)
    accepted = [normalized for answer in answers if (normalized := normalize_answer(answer))]
    return max(score(predicted, answer) for answer in accepted or [""])


def _word_f1(predicted: str, accepted: str) -> float:
    words, wanted = predicted.split(), accepted.split()
    if not words or not wanted:
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def bleu(predictions: Sequence[str], references: References) -> float:
    """BLEU of a corpus, 0 to 100, by sacrebleu (tokens by 13a, four orders).

    Of orders that the references are too short for, as few sentences of three words are, none counts ("eff:yes" in
    the signature); with longer texts the figure is that of sacrebleu's defaults.

    Args:
        predictions: the texts written; at least one.
        references: for each its accepted text, or a sequence of them.

    Raises:
        ValueError: there are no predictions, or not as many references.

    References:
        Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, ACL 2002;
        Post, A Call for Clarity in Reporting BLEU Scores, WMT 2018.
    """
    from sacrebleu.metrics import BLEU

    return _corpus_score(BLEU(effective_order=True), predictions, references)


def chrf(predictions: Sequence[str], references: References) -> float:
    """chrF2 of a corpus, 0 to 100, with sacrebleu's defaults (six orders of characters, no words).

    Args and errors are those of `bleu`.

    References:
        Popović, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015.
    """
    from sacrebleu.metrics import CHRF

    return _corpus_score(CHRF(), predictions, references)


def signatures(references: References = ("",)) -> dict[str, str]:
    """sacrebleu's signatures of `bleu` and `chrf`, to be printed beside the scores.

    Args:
        references: as given to `bleu`: their number is part of the signature; one each by default.
    """
    from sacrebleu.metrics import BLEU, CHRF

    streams = _streams(references)
    return {
        "BLEU": str(BLEU(effective_order=True, references=streams).get_signature()),
        "chrF": str(CHRF(references=streams).get_signature()),
    }


def _corpus_score(metric: "Metric", predictions: Sequence[str], references: References) -> float:
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references: expected as many, at least one"
        )
    return float(metric.corpus_score(predictions, _streams(references)).score)


def _streams(references: References) -> list[list[str]]:
    """The n-th references of all predictions, as sacrebleu takes them; None where there are fewer."""
    accepted = [[one] if isinstance(one, str) else list(one) for one in references]
    if not all(accepted):
        raise ValueError("a prediction has no reference: expected at least one")
    most = max(map(len, accepted))
    streams = [[texts[n] if n < len(texts) else None for texts in accepted] for n in range(most)]
    return cast(list[list[str]], streams)  # sacrebleu's annotations leave out the None that it takes


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of distinct n-grams among all n-grams of the texts, 0 to 1; 0 where there are none.

    Words are what white space separates. The paper divides by the number of words instead;
    n-grams are what is usual since, and reach 1.

    References:
        Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models,
        NAACL 2016.
    """
    if n < 1:
        raise ValueError(f"n={n}: expected at least one word")
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def slot_recall(prediction: str, values: Sequence[str]) -> float | None:
    """Share of the values that the prediction names, 0 to 1; None where there are none.

    A value is named where it stands as whole words, but for case and white space.
    """
    if not values:
        return None
    return sum(names(prediction, value) for value in values) / len(values)
