"""Every flag in words: when it is raised, what it means and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FlagMeaning:
    """When a flag is raised, what it means and what to do."""

    raised_if: str
    meaning: str
    remedy: str


#: Every flag a record or a row of a table may carry.
FLAGS: dict[str, FlagMeaning] = {
    "attack-too-weak": FlagMeaning(
        "an unbounded attack with gradients leaves the undefended fusion center above 5 %"
        " where an agent that it controls was heard",
        "the attack proves nothing about any defense",
        "use more steps, a larger step or another attack",
    ),
    "not-adaptive": FlagMeaning(
        "the attack does not know the defense",
        "the accuracy is an upper bound; an adversary who knows the defense may do better",
        "run an attack with knowledge=adaptive",
    ),
    "transfer-beats-adaptive": FlagMeaning(
        "attacking the undefended fusion center breaks over 1 % of the samples that the"
        " adaptive attack does not break",
        "gradients through the defense mislead the attack; the accuracy is too high",
        "use restarts, another step or another attack",
    ),
    "gradient-unusable": FlagMeaning(
        "over 1 % of the gradients the attack asked for were zero or not finite",
        "the defense masks its gradients, so a gradient attack may miss",
        "use knowledge=fusion beside it, a surrogate, or an attack by queries",
    ),
    "gradient-wrong": FlagMeaning(
        "on probe samples the gradient the attack gets has a median cosine below 0.9 with"
        " the decision's own differences, or a step along it lowers the margin more than a"
        " random step on fewer than 75 % of them",
        "the defense masks its gradients: the attack walks in a wrong direction",
        "give the defense a surrogate with a useful derivative (no detached tensors, no"
        " rounding), or attack by queries",
    ),
    "randomized-without-eot": FlagMeaning(
        "over 1 % of the probe samples are answered otherwise when asked again or with"
        " other last digits, and the attack asks for each gradient only once",
        "the attack follows one draw of the randomness and meets another",
        "average each gradient over several draws (expectation over transformation)",
    ),
    "lost-success": FlagMeaning(
        "for over 1 % of the samples the attack saw a point succeed and sent another",
        "the attack threw its success away, or met another answer the second time; the"
        " accuracy is too high",
        "send the best point seen, not the last, and judge it by the decision itself",
    ),
    "no-progress": FlagMeaning(
        "for over 5 % of the samples it had to move, the attack did not lower the margin",
        "the attack is stuck, or what it controls changes nothing",
        "look at gradient-unusable and attack-misses-planted; try other starts and losses",
    ),
    "attack-not-converged": FlagMeaning(
        "over 1 % of the samples were first broken in the last quarter of the gradients"
        " the attack asked for, or are broken only by the same attack with twice the steps"
        " or restarts",
        "the accuracy depends on how long the attack searched",
        "raise steps and restarts until nothing changes",
    ),
    "attack-misses-planted": FlagMeaning(
        "with a head grafted on the defense that is wrong at a reachable point, the attack"
        " finds no such point for over 5 % of the probe samples",
        "the attack cannot find what is there, so its failures prove nothing",
        "mend the gradient or the starts, then look at the accuracy again",
    ),
    "planted-not-tried": FlagMeaning(
        "the attack failed on planted counter-examples: it may need classes that the head"
        " grafted on the defense does not have",
        "nothing is known of how much of what is there the attack finds",
        "let the attack work on any two classes, or judge it by other attacks",
    ),
    "solver-budget": FlagMeaning(
        "with ten times the solver steps the defense decides over 1 % more or fewer of the"
        " attacked probe samples rightly",
        "the accuracy is that of stopping early",
        "raise the defense's iteration limit until nothing changes",
    ),
    "static-reference": FlagMeaning(
        "a defense that optimizes at inference leaves no more accuracy under the attack"
        " than the undefended fusion center",
        "the optimization costs time and protects nothing here",
        "compare it with a static defense",
    ),
    "attack-broken": FlagMeaning(
        "over 2 % of the samples survive this attack, unbounded, in control of all agents",
        "such an adversary cannot fail: the attack or the gradient is broken",
        "believe no number of this attack on this defense; see gradient-wrong",
    ),
    "not-monotone": FlagMeaning(
        "a smaller budget, or fewer of the same agents, breaks over 1 % of the samples that"
        " this attack leaves standing",
        "the attack does not use what it may do",
        "use more steps and starts near the clean embedding",
    ),
    "beaten-by-weaker": FlagMeaning(
        "silence, noise, replay, answers alone or the undefended fusion center break over"
        " 1 % of the samples that no attack by gradients of the defense breaks which may do"
        " the same",
        "gradients through the defense mislead; its accuracy is that of the weaker attack",
        "count the worst case over all attacks, and mend the gradient",
    ),
    "more-steps-weaker": FlagMeaning(
        "the same attack with fewer steps breaks over 1 % of the samples that this one"
        " leaves standing",
        "later steps lose what earlier ones found",
        "keep the best point; use smaller steps",
    ),
    "changes-without-attack": FlagMeaning(
        "decisions differ from the clean ones although nobody is compromised",
        "the defense answers by chance, or remembers what it saw",
        "make the answer a function of what arrived",
    ),
    "solver-not-converged": FlagMeaning(
        "the defense's solver did not converge for over 1 % of the samples",
        "robustness may come from stopping early",
        "raise the defense's iteration limit and compare",
    ),
    "clean-drop": FlagMeaning(
        "the defense costs more than 2 points of clean accuracy",
        "part of the accuracy was given up before any attack",
        "compare with the undefended fusion center, not with the attacked one alone",
    ),
    "below-majority": FlagMeaning(
        "clean accuracy is not above the share of the largest class",
        "always answering the largest class would do as well",
        "look at balanced accuracy; train longer or choose another label",
    ),
    "blocks-rejected": FlagMeaning(
        "blocks arrived non-finite, above 1e15 in magnitude or subnormal: they counted as"
        " missing",
        "the attack sent what no agent can mean",
        "nothing, unless the attack did not intend it",
    ),
    "oracle-information": FlagMeaning(
        "the defense is told which agents are corrupted",
        "nobody can deploy it; it shows what knowing the corrupted agents would be worth",
        "compare it with the genie, not with defenses that must find out themselves",
    ),
    "test-statistics": FlagMeaning(
        "the data set was standardized with statistics of the test split",
        "the numbers are for comparison with work that does so",
        "use the data set's standardize=train",
    ),
    "partial": FlagMeaning(
        "the run used part of the test samples (--quick)",
        "for trying out only; never to be published",
        "run without --quick",
    ),
}
