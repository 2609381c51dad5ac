"""Effect of preference training on a chat model of the demo: answers before and after.

    python -m benchmarks.bench_preferences STORE [--questions 500] [--seed 1]

STORE is a data root in which `python -m flows.finetune --preset demo --set preference.method=dpo`
has run. The newest training on preferences is compared with the training it began from: greedy
answers to questions about held-out stories, an answer being right if it is the expected sentence,
and the held-out pairs of answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.machine import describe
from model.config.outputs import TrainModelOutputs
from model.config.train import DirectPreference
from model.core.artifact import Manifest
from model.core.errors import ArtifactError
from model.core.store import ArtifactStore
from model.data.shards import ShardSet
from model.inference.generate import generate_batch
from model.inference.sampling import Sampling
from model.network.gpt import GPT
from model.network.weights import load_model
from model.text.chat_template import read_messages
from model.text.conversation import conversation_ids
from model.text.tokenizer import IM_END, Tokenizer
from model.train.objectives import Preferences
from tasks.corpus.demo.chats import held_out_conversations
from tasks.corpus.demo.stories import is_right_answer

ANSWER_TOKENS = 48
PAIR_ROWS = 16


def newest_preferred(store: ArtifactStore) -> Manifest:
    """Return the newest training on preferences.

    Raises:
        ArtifactError: there is none.
    """
    found = [item for item in store.manifests("train_model") if "dpo" in item.derivation.config]
    if not found:
        raise ArtifactError(
            "nothing was trained on preferences",
            expected="a train_model artifact with the setting dpo",
            found="none",
            where=store.root,
            fix="run `python -m flows.finetune --preset demo --set preference.method=dpo`",
        )
    return max(found, key=lambda item: item.origin.created_at)


def answer_accuracy(model: GPT, tokenizer: Tokenizer, *, num_questions: int, seed: int) -> float:
    """Return the share of held-out questions that a model answers right, greedily."""
    conversations = list(held_out_conversations(num_questions, seed=seed))
    prompts = [
        conversation_ids(read_messages(turns[:-1], where="demo"), tokenizer)
        for turns in conversations
    ]
    written = generate_batch(
        model,
        prompts,
        num_tokens=ANSWER_TOKENS,
        sampling=Sampling(temperature=0, top_p=1, repetition_penalty=1),
        stop_ids=(tokenizer.special_id(IM_END), tokenizer.end_of_text_id),
    )
    num_right = sum(
        is_right_answer(tokenizer.decode(ids), expected=turns[-1]["content"])
        for ids, turns in zip(written, conversations, strict=True)
    )
    return num_right / num_questions


def compare(store: ArtifactStore, *, num_questions: int, seed: int) -> str:
    """Return the table of both models."""
    preferred = newest_preferred(store)
    inputs = preferred.derivation.inputs
    (start,), (tokens,), (held_out,) = (
        inputs[role] for role in ("init_from", "tokenizer", "validation")
    )
    tokenizer = Tokenizer.load(store.path(tokens))
    dpo = DirectPreference.model_validate(preferred.derivation.config["dpo"])
    context_tokens = preferred.derivation.config["model"]["context_tokens"]
    pairs = ShardSet(store.path(held_out), context_tokens=context_tokens, loss_on="mask")
    lines = [
        "| model | questions right | chosen answer likelier | preference accuracy | margin, nats |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, artifact in (("chat", start), ("preferred", preferred.artifact)):
        model = load_model(store.path(artifact) / "model")
        objective = Preferences(
            model,
            reference=load_model(store.path(start) / "model"),
            beta=dpo.beta,
            validation=pairs,
        )
        sums = objective.evaluate(
            max_tokens=pairs.num_rows * context_tokens, batch_rows=PAIR_ROWS, rank=0, world_size=1
        )
        found = objective.metrics(sums)
        right = answer_accuracy(model, tokenizer, num_questions=num_questions, seed=seed)
        is_moved = name == "preferred"  # a reference has gained nothing over itself
        accuracy = f"{found['validation/preference_accuracy']:.1%}" if is_moved else "-"
        margin = f"{found['validation/preference_margin'] / dpo.beta:.2f}" if is_moved else "-"
        lines.append(
            f"| {name} | {right:.1%} | {found['validation/chosen_likelier_frac']:.1%} "
            f"| {accuracy} | {margin} |"
        )
    rows = [
        f"{num_questions} questions, {pairs.num_rows // 2} pairs; beta {dpo.beta:g}, "
        f"{TrainModelOutputs.counts_of(preferred).steps} steps, "
        f"{TrainModelOutputs.facts_of(preferred).tokens_per_second:,.0f} tokens/s of training on "
        f"pairs and {TrainModelOutputs.of(store, start).facts.tokens_per_second:,.0f} on "
        "conversations.",
    ]
    return "\n".join([*lines, "", *rows, "", describe()])


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="data root of a demo run")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    store = ArtifactStore(options.store)
    print(compare(store, num_questions=options.questions, seed=options.seed))


if __name__ == "__main__":
    main()
