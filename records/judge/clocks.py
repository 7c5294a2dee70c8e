"""Clocks: training with its calibration, evaluation with its preparation, against the caps of the track."""

from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.log_facts import LogFacts
from records.judge.record import JudgedRecord
from records.judge.rules import found


def judge_training_clock(record: JudgedRecord) -> Iterator[Finding]:
    """Training ends within its cap; the step that crosses it counts as within, as in the organisers' script."""
    cap = record.limits.train
    if cap is None:
        return
    for facts in record.logs:
        seconds = facts.train_seconds
        if seconds is None:
            if record.limits.track != "pocket" and facts.log.scores:
                yield found("clock-missing", "no training time", facts.name, "note")
        elif seconds > cap + _grace(facts):
            yield found("training-overrun", f"trained {seconds:.3f} s of {cap:g}", facts.name)
        else:
            yield from _calibration(facts, seconds, cap)
            yield from _reserve(facts, seconds, cap)
    for seed, result in record.claims.results.items():
        seconds = result.get("train_seconds")
        if seconds and seconds > cap + 1 and not record.logs:
            yield found("training-overrun", f"seed {seed} trained {seconds:g} s of {cap:g}", "submission.json")


def judge_evaluation_clock(record: JudgedRecord) -> Iterator[Finding]:
    """Evaluation ends within its cap, by the logs and by submission.json, with what it prepared."""
    cap = record.limits.evaluation
    if cap is None:
        return
    for facts in record.logs:
        seconds = facts.eval_seconds
        if seconds and seconds > cap:
            yield found("evaluation-overrun", f"evaluated {seconds:.1f} s of {cap:g}", facts.name)
        yield from _untimed(facts, seconds or 0.0, cap)
    for seed, result in record.claims.results.items():
        if result.get("eval_seconds", 0) > cap:
            said = f"seed {seed} evaluated {result['eval_seconds']:g} s of {cap:g}"
            yield found("evaluation-overrun", said, "submission.json")
    claimed = record.claims.number("eval_seconds")
    if claimed and claimed > cap and not record.claims.results:
        yield found("evaluation-overrun", f"evaluated {claimed:g} s of {cap:g}", "submission.json")


def judge_told_times(record: JudgedRecord) -> Iterator[Finding]:
    """The times of submission.json are those of the logs."""
    for facts in record.logs:
        result = record.claims.results.get(facts.seed, {}) if facts.seed is not None else {}
        for name, logged in (("train_seconds", facts.train_seconds), ("eval_seconds", facts.eval_seconds)):
            claimed = result.get(name)
            if claimed and logged and abs(claimed - logged) > 0.01 * logged + 1:
                said = f"seed {facts.seed}: {name} {claimed:g} in submission.json, {logged:g} in the log"
                yield found("clock-disagrees", said, facts.name)


def _grace(facts: LogFacts) -> float:
    """The step that crosses the cap, and the rounding of a log that tells minutes."""
    return 1.5 * facts.step_seconds + (6.0 if facts.log.stop is None and _in_minutes(facts) else 0.05)


def _in_minutes(facts: LogFacts) -> bool:
    timed = [step.train_seconds for step in facts.log.steps if step.train_seconds]
    return bool(timed) and all(abs(seconds / 6 - round(seconds / 6)) < 1e-6 for seconds in timed)


def _calibration(facts: LogFacts, seconds: float, cap: float) -> Iterator[Finding]:
    spent = sum(part for part, _ in facts.calibration)
    if spent and seconds + spent > cap + _grace(facts):
        line = facts.calibration[-1][1]
        said = f"trained {seconds:.1f} s and collected statistics for {spent:.1f} s: {seconds + spent:.1f} of {cap:g}"
        yield found(
            "calibration-overrun",
            said,
            f"{facts.name}:{line}",
            confidence="medium",
            why="calibration on text that the model itself generates is accepted after the cap",
        )


def _reserve(facts: LogFacts, seconds: float, cap: float) -> Iterator[Finding]:
    reserve = facts.number("reserve")
    if reserve and seconds > cap - reserve + _grace(facts) + 0.1 * reserve:
        said = f"{reserve:g} s reserved, yet trained {seconds:.1f} of {cap:g} s"
        yield found("reserve-not-subtracted", said, facts.at("reserve"))


def _untimed(facts: LogFacts, seconds: float, cap: float) -> Iterator[Finding]:
    spent = sum(part for part, _ in facts.prepared)
    if spent:
        over = seconds + spent > cap
        said = f"{spent:.1f} s of tables built before the timer, {seconds:.1f} s on it, {cap:g} allowed"
        why = "the log does not tell what the tables are built from"
        line = f"{facts.name}:{facts.prepared[-1][1]}"
        yield found("evaluation-untimed", said, line, None if over else "note", "medium", why)
